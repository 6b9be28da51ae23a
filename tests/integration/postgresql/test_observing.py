"""The janitor's and a taker's view of a real PostgreSQL: sessions matched to leases, ended only if still the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.core.values import replace
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.observe import end, kill, observe
from tests.support.postgresql import NAME, opener_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.core.observation import Session
    from connection_governor.database.target import Target
    from connection_governor.postgresql.session import FencedConnection
    from harness.stack.postgresql import PrivatePostgreSQL

LONG = Fence(idle_seconds=60, statement_seconds=60)
MONITOR = Login("monitor", "monitor's")


@pytest.fixture
def monitor(target: Target, shop: PrivatePostgreSQL) -> Iterator[FencedConnection]:
    """Yield a session with the janitor's rights."""
    shop.create_user(MONITOR.username, MONITOR.password, grants=["pg_read_all_stats", "pg_signal_backend"])
    with contextlib.closing(opener_of(target, MONITOR).open(LONG, "janitor", None, autocommit=True)) as session:
        yield session


def only(sessions: tuple[Session, ...]) -> Session:
    """Return the only session."""
    (session,) = sessions
    return session


def is_gone(session: psycopg.Connection[Any]) -> bool:
    """Return whether the server has ended a session."""
    with contextlib.suppress(psycopg.Error):
        session.execute("SELECT 1")
        return False
    return True


def test_sessions_are_matched_to_leases(opened: Callable[..., FencedConnection], monitor: FencedConnection) -> None:
    """The janitor could tell no session of a living lease from one whose lease has expired."""
    session = opened(LONG)
    found = observe(monitor, ["worker", "nobody"])
    seen = only(found.sessions)
    assert (seen.lease_id, seen.database, seen.connection_id) == ("abcdefgh", "orders", session.info.backend_pid)
    assert (seen.user, seen.host, seen.command) == ("worker", "127.0.0.1", "idle")
    assert (found.names_known, found.ungoverned) == (True, 0)


def test_an_observer_without_rights_knows_no_names(
    opened: Callable[..., FencedConnection], target: Target, shop: PrivatePostgreSQL
) -> None:
    """It would take each governed session for one without a lease."""
    shop.create_user("curious", "secret")
    opened(LONG)
    with contextlib.closing(opener_of(target, Login("curious", "secret")).open(LONG, "janitor", None)) as curious:
        found = observe(curious, ["worker"])
    assert (len(found.sessions), found.names_known, found.ungoverned) == (1, False, None)


def test_no_users_is_an_error(monitor: FencedConnection) -> None:
    """A janitor that watches no user would report that nothing is wrong."""
    with pytest.raises(InvalidRequest):
        observe(monitor, [])


def test_a_session_is_ended_by_its_lease(opened: Callable[..., FencedConnection], monitor: FencedConnection) -> None:
    """The session of an expired lease would take the place of the next holder's."""
    session = opened(LONG)
    assert kill(monitor, only(observe(monitor, ["worker"]).sessions))
    assert observe(monitor, ["worker"]).sessions == ()
    assert is_gone(session)


@pytest.mark.parametrize(
    "difference", [{"program_name": NAME.replace("a", "z")}, {"started": "2020-01-01 00:00:00+00"}]
)
def test_another_session_in_its_place_is_spared(
    opened: Callable[..., FencedConnection], monitor: FencedConnection, difference: dict[str, Any]
) -> None:
    """A process's number that is used again would cost a worker its session in the middle of its work."""
    session = opened(LONG)
    assert not kill(monitor, replace(only(observe(monitor, ["worker"]).sessions), **difference))
    assert not is_gone(session)


def test_a_session_without_a_lease_is_ended_by_an_operator_only(target: Target, monitor: FencedConnection) -> None:
    """The janitor would end an application that is not governed."""
    with contextlib.closing(opener_of(target).open(LONG, "psql", None)) as session:
        seen = only(observe(monitor, ["worker"]).sessions)
        assert not kill(monitor, seen)
        assert not is_gone(session)
        assert end(monitor, seen)
        assert is_gone(session)


def test_a_taker_ends_the_session_of_the_lease_that_it_took_over(
    target: Target, opened: Callable[..., FencedConnection]
) -> None:
    """A zombie and its successor would hold two connections under one slot."""
    zombie = opened(LONG)
    zombie.execute("UPDATE stock SET pieces = pieces WHERE id = 1")
    opener = opener_of(target)
    bystander = opener.open(LONG, "governor:bystandr:orders#0", None)
    taker = opener.open(LONG, "governor:taker000:orders#0", None)
    with contextlib.closing(bystander), contextlib.closing(taker):
        assert taker.end_sessions([NAME, 'governor:x"},{"y:orders#0']) == 1
        taker.execute("UPDATE stock SET pieces = pieces WHERE id = 1")  # its lock is free
        assert is_gone(zombie)
        assert not is_gone(bystander)


def test_a_coroutine_ends_the_session_of_the_lease_that_it_took_over(
    target: Target, opened: Callable[..., FencedConnection]
) -> None:
    """As above, for asyncio."""
    zombie = opened(LONG)

    async def take() -> int:
        taker = opener_of(target).new_async_session(LONG, "governor:taker000:orders#0", None)
        await taker.open()
        try:
            return await taker.end_sessions([NAME])
        finally:
            await taker.take_leave()

    assert asyncio.run(take()) == 1
    assert is_gone(zombie)


def test_a_statement_is_ended_within_its_work(
    target: Target, monitor: FencedConnection, opened: Callable[..., FencedConnection]
) -> None:
    """A statement that runs on past its lease could only be waited for."""
    session = opened(LONG, autocommit=True)
    session.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")
    session.pgconn.flush()
    until(lambda: only(observe(monitor, ["worker"]).sessions).command == "active")
    began = time.monotonic()
    assert kill(monitor, only(observe(monitor, ["worker"]).sessions))
    until(lambda: not observe(monitor, ["worker"]).sessions)
    assert time.monotonic() - began < 1.0
