"""Reset: nothing of a session reaches the next invocation, and the fence is up again. On a real MariaDB."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql.cursors import SSCursor

from connection_governor.database.fence import Fence
from connection_governor.mysql.connect import open_session
from connection_governor.mysql.fence import SessionStart
from tests.support.database import WORKER, Opener, ask

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target

pytestmark = pytest.mark.every_engine

START = SessionStart(collation="utf8mb4_bin", time_zone="+03:00", sql_mode="ANSI_QUOTES")


def test_the_settings_are_in_force_again(opened: Opener) -> None:
    """The server puts its own defaults back: an unfenced session would live for eight hours."""
    fence = Fence(idle_seconds=7, statement_seconds=3.5, write_seconds=4, lock_seconds=2)
    session = opened(fence, start=START)
    limits = fence.session_settings(is_mariadb=session.is_mariadb)
    names = [*limits, "autocommit", "time_zone", "sql_mode", "collation_connection"]
    before = [ask(session, f"SELECT @@SESSION.{name}") for name in names]
    with session.cursor() as cursor:
        limit = "max_statement_time" if session.is_mariadb else "max_execution_time"
        cursor.execute(f"SET NAMES latin1, wait_timeout = 28800, {limit} = 0, net_write_timeout = 60")
        cursor.execute("SET autocommit = 1, time_zone = '+09:00', sql_mode = '', innodb_lock_wait_timeout = 50")
    session.reset()
    assert [ask(session, f"SELECT @@SESSION.{name}") for name in names] == before


def test_no_state_survives(opened: Opener) -> None:
    """One invocation's state in the next means wrong results, and another customer's data."""
    session = opened()
    with session.cursor() as cursor:
        cursor.execute("SET @mine = 'secret'")
        cursor.execute("CREATE TEMPORARY TABLE scratch (id INT)")
        cursor.execute("PREPARE kept FROM 'SELECT 1'")
        cursor.execute("SELECT GET_LOCK('mine', 0)")
        cursor.execute("USE other")
    session.reset()
    assert ask(session, "SELECT @mine") is None
    assert ask(session, "SELECT IS_FREE_LOCK('mine')") == 1
    assert ask(session, "SELECT DATABASE()") == "shop"
    with pytest.raises(pymysql.err.ProgrammingError, match="scratch"):
        ask(session, "SELECT * FROM scratch")
    with pytest.raises(pymysql.err.OperationalError, match="kept"):
        ask(session, "EXECUTE kept")


def test_an_open_transaction_is_rolled_back_and_its_locks_are_gone(opened: Opener, root: Connection[Cursor]) -> None:
    """A frozen transaction blocks everyone else, and a later commit would write half an invocation."""
    session = opened()
    session.query("UPDATE stock SET pieces = 77 WHERE id = 1")
    session.reset()
    root.query("SELECT pieces FROM stock WHERE id = 1 FOR UPDATE NOWAIT")
    session.commit()
    assert ask(root, "SELECT pieces FROM stock WHERE id = 1") == 10


def test_locked_tables_are_unlocked(opened: Opener, root: Connection[Cursor]) -> None:
    """LOCK TABLES of a frozen environment stops the shop."""
    session = opened()
    session.query("LOCK TABLES stock WRITE")
    session.reset()
    root.query("SET lock_wait_timeout = 1")
    assert ask(root, "SELECT pieces FROM stock WHERE id = 1") == 10


def test_what_pymysql_remembers_is_reset_too(opened: Opener) -> None:
    """PyMySQL would decode by the charset of the last invocation, and skip an autocommit that it thinks is set."""
    session = opened()
    session.set_character_set("latin1")
    session.autocommit(True)
    session.reset()
    assert (session.charset, session.encoding, session.autocommit_mode) == ("utf8mb4", "utf8", False)
    assert not session.get_autocommit()
    assert ask(session, "SELECT '€'") == "€"


def test_a_session_without_a_schema_stays_in_step(target: Target) -> None:
    """It is asked which schema is chosen, in the same write: an answer left over would be the next query's."""
    with closing(open_session(replace(target, database=None), WORKER)) as session:
        for number in range(20):
            assert ask(session, f"SELECT {number}") == number
            session.reset()
            assert session.is_alive()
        session.select_db("other")
        with pytest.raises(pymysql.err.InterfaceError, match="schema"):
            session.reset()
        assert not session.open
        assert not session.may_linger


def test_it_works_again_and_again(opened: Opener) -> None:
    """A kept connection is reset thousands of times: the packets' sequence must never slip."""
    session = opened()
    for number in range(200):
        assert ask(session, f"SELECT {number}") == number
        session.reset()
        assert session.is_alive()


def test_results_of_a_procedure_that_were_not_fetched_are_no_obstacle(opened: Opener) -> None:
    """CALL always leaves one: such a worker would otherwise never keep its connection."""
    session = opened()
    session.query("DROP PROCEDURE IF EXISTS both_of_them")
    session.query("CREATE PROCEDURE both_of_them() BEGIN SELECT 1; SELECT 2; END")
    with session.cursor() as cursor:
        cursor.callproc("both_of_them")
        session.reset()
    assert ask(session, "SELECT 3") == 3


def test_a_result_that_is_still_streaming_closes_the_session(opened: Opener) -> None:
    """Reading a flood to its end could outlast the invocation: a new connection is quicker."""
    session = opened()
    cursor = session.cursor(SSCursor)
    cursor.execute("SELECT REPEAT('x', 60000) FROM seq_1_to_100000")
    with pytest.raises(pymysql.err.InterfaceError):
        session.reset()
    assert not session.open


def test_a_session_that_the_server_ended_says_so(opened: Opener, root: Connection[Cursor]) -> None:
    """The governor must learn that it has to open another one, under another lease."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    with pytest.raises(pymysql.err.OperationalError):
        session.reset()
    assert not session.open
    assert session.let_go
    with pytest.raises(pymysql.err.InterfaceError):
        session.reset()


def test_a_reset_that_the_server_refuses_leaves_no_session_out_of_step(
    opened: Opener, root: Connection[Cursor]
) -> None:
    """After a half-read answer the next query would get the wrong rows."""
    session = opened()
    session._after_reset = (session._after_reset[0], b"\x02nowhere", *session._after_reset[2:])
    with pytest.raises(pymysql.err.OperationalError):
        session.reset()
    assert not session.open


@pytest.mark.filterwarnings("ignore:.*reconnect:DeprecationWarning")  # newer PyMySQL advises against it
def test_it_is_never_reopened_behind_the_leases_back(opened: Opener, root: Connection[Cursor]) -> None:
    """`ping(reconnect=True)` would bring up a session without fence, under a lease that may be over."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    with pytest.raises(pymysql.err.InterfaceError, match="never reopened"):
        session.ping(reconnect=True)
