"""Closing means that MySQL has let go. On a real MariaDB."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.mysql import CLOSE_SECONDS, _read_to_end, open_session
from connection_governor.secrets import Credentials
from tests.database.conftest import SHORT, SLACK_S, Opener, ask, seconds_until_gone

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.mysql import Target
    from harness.mariadb import PrivateMariaDB


def test_the_next_connection_never_meets_the_last_one(shop: PrivateMariaDB, target: Target) -> None:
    """A lease that is released too early sends the next holder into error 1226 (or 1040)."""
    shop.create_user("single", "pw", max_user_connections=1, grants=["ALL ON shop.*"])
    for _ in range(200):
        session = open_session(target, Credentials("single", "pw"))
        session.close()
        assert session.let_go


def test_closing_twice_or_after_the_server_did_is_quiet(opened: Opener, root: Connection[Cursor]) -> None:
    """An error here would hide the worker's own, or keep the lease from being released."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    for _ in range(2):
        session.close()
        assert session.let_go


def test_an_open_transaction_is_rolled_back(opened: Opener, root: Connection[Cursor]) -> None:
    """A body that raised must leave nothing half done."""
    session = opened()
    session.query("UPDATE stock SET pieces = 55 WHERE id = 2")
    session.close()
    assert ask(root, "SELECT pieces FROM stock WHERE id = 2") == 20


def test_giving_up_on_an_answer_is_not_the_servers_end(opened: Opener, root: Connection[Cursor]) -> None:
    """The statement runs on: releasing its lease now would put one connection too many on MySQL."""
    session = opened(SHORT)
    session._read_timeout = 0.1
    with pytest.raises(pymysql.err.OperationalError) as lost:
        ask(session, "SELECT BENCHMARK(2000000000, MD5('x'))")
    assert lost.value.args[0] == 2013
    session.close()
    assert not session.let_go
    seconds_until_gone(root, session.thread_id(), at_most=SHORT.margin_ms / 1_000 + SLACK_S)


def test_a_session_that_the_server_killed_counts_as_let_go(opened: Opener, root: Connection[Cursor]) -> None:
    """Else each thawed environment would leave its lease to expire: a slot lost for half a minute."""
    session = opened()
    root.query(f"KILL {session.thread_id()}")
    assert not session.is_alive()
    assert session.let_go
    assert not session.is_alive()


def test_a_server_that_does_not_answer_is_left_after_a_moment() -> None:
    """A stuck network must not hold up the end of an invocation."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        since = time.monotonic()
        with pytest.raises(TimeoutError):
            _read_to_end(ours)
        assert CLOSE_SECONDS * 0.9 < time.monotonic() - since < CLOSE_SECONDS + SLACK_S
        theirs.sendall(b"the last rows")
        theirs.close()
        assert _read_to_end(ours)
