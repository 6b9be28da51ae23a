"""What a kept PostgreSQL session forgets between two bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from connection_governor.database.fence import Fence
from connection_governor.postgresql.fence import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.postgresql.session import FencedConnection

LONG = Fence(idle_seconds=60, statement_seconds=60)
TRACES = {
    "SET search_path = pg_catalog": "SELECT current_setting('search_path')",
    "SET statement_timeout = 0": "SELECT current_setting('statement_timeout')",
    "SET application_name = 'other'": "SELECT current_setting('application_name')",
    "SET TimeZone = 'Asia/Tokyo'": "SELECT current_setting('TimeZone')",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": "SELECT current_setting('default_transaction_read_only')",
    "SELECT set_config('app.tenant', 'blue', false)": "SELECT nullif(current_setting('app.tenant', true), '')",
    "SET ROLE clerk": "SELECT current_user",
    "SET SESSION AUTHORIZATION worker; SET ROLE clerk": "SELECT session_user || current_user",
    "CREATE TEMP TABLE basket (id int)": "SELECT count(*) FROM pg_class WHERE relname = 'basket'",
    "SELECT pg_advisory_lock(7)": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    "LISTEN orders": "SELECT count(*) FROM pg_listening_channels()",
    "PREPARE found AS SELECT 1": "SELECT count(*) FROM pg_prepared_statements",
    "DECLARE found CURSOR WITH HOLD FOR SELECT 1": "SELECT count(*) FROM pg_cursors",
}


@pytest.fixture
def session(opened: Callable[..., FencedConnection]) -> FencedConnection:
    """Return a session, as it is kept."""
    return opened(LONG, settings={"TimeZone": "Europe/Berlin"})


def value(session: FencedConnection, query: str) -> object:
    """Return the only value, and leave no transaction open."""
    row = session.execute(query.encode()).fetchone()
    session.commit()
    return row and row[0]


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("statement", TRACES)
def test_a_reset_forgets(session: FencedConnection, statement: str, committed: bool) -> None:
    """The next body would work with the last one's rights, settings, locks or tables."""
    before, number = value(session, TRACES[statement]), session.info.backend_pid
    session.execute(statement.encode())
    if committed:
        session.commit()
        assert value(session, TRACES[statement]) != before, "the trace is there"
    session.reset()
    assert value(session, TRACES[statement]) == before
    assert session.info.backend_pid == number


def test_the_fence_stands_after_a_reset(session: FencedConnection) -> None:
    """DISCARD ALL would leave a kept session without limits if it returned to the server's own."""
    for name in limits(LONG):
        session.execute(f"SET {name} = 0".encode())
    session.commit()
    session.reset()
    query = "SELECT setting FROM pg_settings WHERE name = '{}'"
    assert {name: value(session, query.format(name)) for name in limits(LONG)} == limits(LONG)


def test_what_was_not_committed_is_rolled_back(session: FencedConnection) -> None:
    """The next body would commit the last one's work."""
    session.execute("UPDATE stock SET pieces = 99 WHERE id = 1")
    session.reset()
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert value(session, "SELECT pieces FROM stock WHERE id = 1") == 10


def test_a_failed_transaction_is_reset(session: FencedConnection) -> None:
    """A body that caught an error would cost its session."""
    with pytest.raises(psycopg.errors.UndefinedTable):
        session.execute("SELECT FROM nowhere")
    session.reset()
    assert value(session, "SELECT 1") == 1


def test_statements_that_psycopg_prepared_are_forgotten_on_both_sides(session: FencedConnection) -> None:
    """The next body's query would ask for a prepared statement that the server has forgotten."""
    for _ in range(2):
        for number in range(8):
            assert session.execute("SELECT %s::int", [number]).fetchone() == (number,)
        assert value(session, "SELECT count(*) FROM pg_prepared_statements") == 1
        session.reset()


def test_pythons_side_starts_anew(opened: Callable[..., FencedConnection]) -> None:
    """The next body would get the last one's rows, types or transactions."""
    session = opened(LONG, autocommit=True, row_factory=dict_row)
    heard: list[Any] = []
    session.add_notice_handler(heard.append)
    session.autocommit = False
    session.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    session.row_factory = psycopg.rows.tuple_row
    session.adapters.register_loader("int4", TextLoader)
    session.prepare_threshold = None
    session.reset()
    assert [session.autocommit, session.isolation_level, session.prepare_threshold] == [True, None, 5]
    assert session.execute("SELECT 7 AS seven").fetchone() == {"seven": 7}
    session.execute("DO $$ BEGIN RAISE NOTICE 'hear'; END $$")
    assert heard == []


def test_a_session_in_the_middle_of_a_command_is_closed(session: FencedConnection) -> None:
    """The next body would read the rest of the last one's answer."""
    stream = session.cursor().stream("SELECT generate_series(1, 1000)")
    next(stream)
    with pytest.raises(psycopg.InterfaceError):
        session.reset()
    assert session.closed
    assert not session.may_linger, "the server has ended it: the client left"


def test_a_session_that_the_server_ended_is_not_alive(session: FencedConnection, root: psycopg.Connection[Any]) -> None:
    """A body would begin on a session that is gone."""
    assert session.is_alive()
    root.execute("SELECT pg_terminate_backend(%s, 5000)", [session.info.backend_pid])
    assert not session.is_alive()
    assert (session.closed, session.may_linger) == (True, False)
