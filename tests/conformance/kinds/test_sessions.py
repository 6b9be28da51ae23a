"""What a governed session promises on each kind of database."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import SHORT, SLACK_S, governor_on, lease_ids
from tests.support.invocation import Invocation
from tests.support.kinds import ROLE, Kind
from tests.support.moving_address import MovingAddress

if TYPE_CHECKING:
    from connection_governor.client.governor import Governor
    from tests.support.faulty_store import FaultyStore

OPENS = int(os.environ.get("KIND_OPENS", "100"))
"""How often a slot is used right after its release; 10000 shows more."""


def governor(kind: Kind, store: FaultyStore, **options: Any) -> Governor:  # noqa: ANN401 - the governor's own
    """Return a governor in this process that opens sessions of this kind."""
    opener = kind.opener(target=options.pop("target", None))
    return governor_on(store, kind.target, opener=opener, **options)


def test_a_session_is_behind_its_fence_when_it_is_opened(kind: Kind, store: FaultyStore) -> None:
    """A holder that freezes right after opening keeps its session until the server's own limits, hours later."""
    with governor(kind, store, keep_seconds=0).connection(context=Invocation()) as connection:
        idle_ms, statement_ms = kind.ask(connection, kind.limits)
    assert (int(idle_ms), int(statement_ms)) == (SHORT.idle_ms, round(SHORT.statement_seconds * 1_000))


@pytest.mark.parametrize("in_transaction", [False, True], ids=["idle", "in a transaction"])
def test_an_idle_session_is_ended_by_the_server(kind: Kind, store: FaultyStore, *, in_transaction: bool) -> None:
    """A frozen environment keeps its slot in the database after its lease has gone to another."""
    with governor(kind, store, keep_seconds=0).connection(context=Invocation()) as connection:
        number = kind.number(connection)
        if in_transaction:
            kind.run(connection, "UPDATE rows_1 SET pieces = pieces + 1")
        waited_s = kind.seconds_until(number, gone=True, at_most=SHORT.idle_seconds + SLACK_S)
    assert waited_s > SHORT.idle_seconds / 2


def test_a_kept_session_forgets_what_the_last_body_did(kind: Kind, store: FaultyStore) -> None:
    """One request's rights, schema, settings, tables and locks reach the next request of another user."""
    worker = governor(kind, store)
    with worker.connection(context=Invocation()) as connection:
        number = kind.number(connection)
        before = [kind.ask(connection, query) for query in (kind.role_now, kind.schema_now, kind.limits)]
        kind.run(connection, *kind.remember, f"SET ROLE {ROLE}", kind.other_schema)
        assert kind.ask(connection, kind.role_now) != before[0], "the role was not taken: the test shows nothing"
        assert kind.ask(connection, kind.schema_now) != before[1]
    with worker.connection(context=Invocation()) as connection:
        assert kind.number(connection) == number, "it was not kept"
        after = [kind.ask(connection, query) for query in (kind.role_now, kind.schema_now, kind.limits)]
        left = kind.ask(connection, kind.remembered)
    worker.close()
    assert after == before
    assert left == (0,)


@pytest.mark.parametrize("in_transaction", [False, True], ids=["idle", "in a transaction"])
def test_a_released_slot_is_free_in_the_database(kind: Kind, store: FaultyStore, *, in_transaction: bool) -> None:
    """The next holder has the lease, and the database refuses it: it still counts the last one's session."""
    kind.limit(1)
    worker = governor(kind, store, keep_seconds=0)
    for _ in range(OPENS):
        with worker.connection(timeout=0, context=Invocation()) as connection:
            if in_transaction:
                kind.run(connection, "UPDATE rows_1 SET pieces = pieces + 1")
    assert lease_ids(store) == set()


def test_a_session_is_ended_by_its_lease(kind: Kind, store: FaultyStore) -> None:
    """The janitor ends the wrong session, or none."""
    with ExitStack() as sessions:
        connection = sessions.enter_context(governor(kind, store, keep_seconds=0).connection(context=Invocation()))
        number, lease = kind.number(connection), connection.lease
        watch = sessions.enter_context(kind.watch())
        (seen,) = [session for session in watch.observe().sessions if session.lease_id == lease.lease_id]
        assert seen.connection_id == number
        of_another = replace(seen, program_name=(seen.program_name or "").replace("#0", "#9"))
        assert not watch.kill(of_another), "the number is another session's by now"
        assert kind.listed(number)
        assert watch.kill(seen)
        kind.seconds_until(number, gone=True, at_most=SLACK_S)
        assert not watch.kill(seen)


def test_a_worker_ends_the_session_of_the_lease_that_it_took_over(kind: Kind, store: FaultyStore) -> None:
    """The holder of before is frozen in a statement, and the database counts its session beside the new one."""
    worker = governor(kind, store, keep_seconds=0)
    with ExitStack() as held:
        lost, other, mine = (held.enter_context(worker.connection(context=Invocation())) for _ in range(3))
        numbers = [kind.number(connection) for connection in (lost, other)]
        kind.begin(lost, kind.lingering["UPDATE"])
        assert mine.end_sessions([lost.lease.session_name]) == 1
        kind.seconds_until(numbers[0], gone=True, at_most=SLACK_S)
        assert kind.listed(numbers[1])
        assert mine.end_sessions([lost.lease.session_name]) == 0


def test_a_crash_of_the_server_costs_a_kept_session_and_no_slot(kind: Kind, store: FaultyStore) -> None:
    """After a restart each warm environment fails its next invocation, or the slots of the old sessions stay lent."""
    worker = governor(kind, store)
    with worker.connection(context=Invocation()) as connection:
        first = kind.number(connection), connection.lease
    kind.server.kill()
    kind.server.start()
    kind.reconnect()
    with worker.connection(context=Invocation(), timeout=5) as connection:
        assert kind.ask(connection, kind.who_am_i)
        assert connection.lease != first[1]
    worker.close()


def test_a_failover_leads_to_the_new_server(kind: Kind, store: FaultyStore) -> None:
    """After a failover each warm environment holds a session of a server that no longer answers."""
    with ExitStack() as until_end:
        other = type(kind)(until_end.enter_context(type(kind.server)(max_connections=20)))
        other.prepare()
        assert kind.server.port is not None
        assert other.server.port is not None
        address = until_end.enter_context(MovingAddress(kind.server.port))
        target = replace(kind.target, port=address.port, tls="require", connect_seconds=0.5)
        worker = governor(kind, store, target=target)
        with worker.connection(context=Invocation()) as connection:
            assert kind.ask(connection, kind.who_am_i)
        address.move(other.server.port)
        address.mute()
        until_end.callback(worker.close)
        with worker.connection(context=Invocation(20), timeout=10) as connection:
            until_end.enter_context(other.administrator())
            assert other.listed(kind.number(connection))
