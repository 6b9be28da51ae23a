"""Closing means that MySQL has let go. On a real MariaDB."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql.constants import COMMAND

from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.mysql.close import CLOSE_SECONDS, say_goodbye
from connection_governor.mysql.connect import open_session
from connection_governor.mysql.state import Reply
from tests.support.database import SHORT, SLACK_S, Opener, ask, listed, seconds_until_gone

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine


@pytest.fixture(scope="module")
def ledger(shop: MySQLFamilyServer) -> None:
    """Create a table whose changes take the server a while to undo."""
    shop.execute(
        "DROP TABLE IF EXISTS shop.ledger",
        "CREATE TABLE shop.ledger (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "USE shop",
        "INSERT INTO ledger SELECT seq, 0 FROM seq_1_to_200000",
    )


def test_the_next_connection_never_meets_the_last_one(shop: MySQLFamilyServer, target: Target, ledger: None) -> None:
    """A lease that is released too early sends the next holder into error 1226 (or 1040)."""
    shop.create_user("single", "pw", max_user_connections=1, grants=["ALL ON shop.*"])
    for number in range(200):
        session = open_session(target, Login("single", "pw"))
        if number % 20 == 0:
            session.query("UPDATE ledger SET pieces = pieces + 1 WHERE id <= 5000")
        session.close()
        assert session.let_go


def test_an_open_transaction_is_rolled_back_before_the_server_lets_go(
    opened: Opener, root: Connection[Cursor], ledger: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MariaDB hangs up first and rolls back then, and counts the session all the while: one too many."""
    monkeypatch.setattr("connection_governor.mysql.close.CLOSE_SECONDS", 10.0)
    session = opened(Fence(statement_seconds=30))
    session.query("UPDATE ledger SET pieces = pieces + 1")
    session.close()
    assert session.let_go
    assert seconds_until_gone(root, session.thread_id(), at_most=10) < 0.1


def test_a_rollback_that_takes_longer_than_the_wait_is_reported(
    opened: Opener, ledger: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the lease must be left to expire."""
    monkeypatch.setattr("connection_governor.mysql.close.CLOSE_SECONDS", 0.01)
    session = opened(Fence(statement_seconds=30))
    session.query("UPDATE ledger SET pieces = pieces + 1")
    session.close()
    assert not session.let_go


def test_closing_twice_or_after_the_server_did_is_quiet(opened: Opener, root: Connection[Cursor]) -> None:
    """An error here would hide the worker's own, or keep the lease from being released."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    for _ in range(2):
        session.close()
        assert session.let_go


def test_an_open_transaction_is_rolled_back(opened: Opener, root: Connection[Cursor]) -> None:
    """A body that raised must leave nothing half done, and no lock."""
    session = opened()
    session.query("UPDATE stock SET pieces = 55 WHERE id = 2")
    session.close()
    assert ask(root, "SELECT pieces FROM stock WHERE id = 2") == 20


def test_closing_before_the_answer_is_not_the_servers_end(opened: Opener, root: Connection[Cursor]) -> None:
    """A signal, or another thread's query: the statement runs on, and so must its lease."""
    session = opened(SHORT)
    session._execute_command(COMMAND.COM_QUERY, "SELECT SLEEP(0.4)")
    session.close()
    assert session.may_linger
    assert listed(root, session.thread_id())


def test_giving_up_on_an_answer_is_not_the_servers_end(
    opened: Opener, root: Connection[Cursor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement runs on: releasing its lease now would put one connection too many on MySQL."""
    monkeypatch.setattr(Fence, "read_seconds", 0.1)
    session = opened(SHORT)
    with pytest.raises(pymysql.err.OperationalError) as lost:
        ask(session, "SELECT BENCHMARK(2000000000, SHA2('x', 256))")
    assert lost.value.args[0] == 2013
    session.close()
    assert not session.let_go
    seconds_until_gone(root, session.thread_id(), at_most=SHORT.margin_ms / 1_000 + SLACK_S)


def test_a_session_that_the_server_killed_counts_as_let_go(opened: Opener, root: Connection[Cursor]) -> None:
    """Each thawed environment would leave its lease to expire: a slot lost for half a minute."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    assert not session.is_alive()
    assert session.let_go
    assert not session.is_alive()


def test_a_session_killed_in_a_transaction_does_not_count_as_let_go(opened: Opener, root: Connection[Cursor]) -> None:
    """The server hangs up at once, but may roll back for minutes."""
    session = opened()
    session.query("UPDATE stock SET pieces = 44 WHERE id = 2")
    root.query(f"KILL {session.thread_id()}")
    assert not session.is_alive()
    assert not session.let_go


def test_a_server_that_does_not_answer_is_left_after_a_moment() -> None:
    """A stuck network must not hold up the end of an invocation."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        since = time.monotonic()
        assert say_goodbye(ours) is Reply.NOTHING
        assert CLOSE_SECONDS * 0.9 < time.monotonic() - since < CLOSE_SECONDS + SLACK_S
        theirs.sendall(b"the last rows")
        theirs.shutdown(socket.SHUT_WR)
        assert say_goodbye(ours) is Reply.END
