"""The fence holds: MySQL itself ends what idles, runs on, waits, or is not read. On a real MariaDB."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql.cursors import SSCursor

from connection_governor.database.fence import Fence
from connection_governor.errors import LeaseLost
from connection_governor.system import SYSTEM_CLOCK
from tests.support.database import SHORT, SLACK_S, WORKER, Opener, ask, ends_by_its_limit, seconds_until_gone

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

FREEZES_ITSELF = """
import os, signal, sys
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from connection_governor.database.credentials import Login
host, port, ca, user, password, statement = sys.argv[1:]
session = open_session(Target(host, int(port), "shop", tls_ca=ca), Login(user, password),
                       Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1))
print(session.thread_id(), flush=True)
if statement:
    session._execute_command(3, statement)
os.kill(os.getpid(), signal.SIGSTOP)
print("alive" if session.is_alive() else "dead", session.let_go, flush=True)
"""
FLOOD = "SELECT REPEAT('x', 60000) FROM seq_1_to_100000"


def started_and_frozen(target: Target, statement: str) -> tuple[subprocess.Popen[str], int]:
    """Return a process that opened a session, sent a statement if any, and stopped itself; and the session's number."""
    arguments = [target.host, str(target.port), str(target.tls_ca), WORKER.username, WORKER.password, statement]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", FREEZES_ITSELF, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    connection_id = int(process.stdout.readline())
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    return process, connection_id


def test_an_idle_session_is_closed_by_the_server(opened: Opener, root: Connection[Cursor]) -> None:
    """Without it, an environment that never comes back holds its connection for eight hours."""
    session = opened(SHORT)
    assert seconds_until_gone(root, session.thread_id(), at_most=SHORT.idle_seconds + SLACK_S) > 0.5
    assert not session.is_alive()
    assert session.let_go


@pytest.mark.parametrize(
    ("statement", "bound_ms", "let_go"),
    [
        pytest.param("", SHORT.idle_ms, True, id="between-statements"),
        pytest.param("SELECT SLEEP(60)", SHORT.margin_ms, False, id="in-a-statement"),
        pytest.param(FLOOD, SHORT.margin_ms, False, id="in-a-result"),
    ],
)
def test_the_session_of_a_frozen_process_ends_in_time(
    target: Target, root: Connection[Cursor], statement: str, bound_ms: int, *, let_go: bool
) -> None:
    """The promise that MySQL agrees: the slot may be granted again, so the session must be gone."""
    process, connection_id = started_and_frozen(target, statement)
    try:
        seconds_until_gone(root, connection_id, at_most=bound_ms / 1_000 + SLACK_S)
        process.send_signal(signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.read().split() == ["dead", str(let_go)]  # in a statement its end alone tells nothing
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_statement_is_stopped_at_its_limit(opened: Opener) -> None:
    """A statement that runs on would outlive its lease; the author sees which limit it was."""
    session = opened(SHORT)
    since = time.monotonic()
    with pytest.raises(pymysql.err.OperationalError) as stopped:
        ask(session, "SELECT COUNT(*) FROM seq_1_to_100000 a, seq_1_to_100000 b WHERE a.seq * b.seq MOD 7 = 3")
    assert stopped.value.args[0] in {1969, 3024}  # max_statement_time, max_execution_time exceeded
    assert time.monotonic() - since < SHORT.statement_seconds + SLACK_S
    assert ask(session, "SELECT 1") == 1


WRITES_FOR_LONG = "INSERT INTO stock SELECT seq + 100, SLEEP(0.01) FROM seq_1_to_100000"


def test_a_write_is_stopped_at_its_limit_and_leaves_nothing(
    opened: Opener, root: Connection[Cursor], shop: MySQLFamilyServer
) -> None:
    """On MariaDB the limit is for every statement: an INSERT must not continue for a client that is gone."""
    if not shop.is_mariadb:
        pytest.skip("MySQL's own limit is for SELECT alone")
    session = opened(SHORT)
    with pytest.raises(pymysql.err.OperationalError) as stopped, session.cursor() as cursor:
        cursor.execute(WRITES_FOR_LONG)
    assert stopped.value.args[0] == 1969
    session.commit()
    assert ask(root, "SELECT COUNT(*) FROM stock WHERE id > 100") == 0


def test_no_limit_of_mysqls_own_stops_a_write(
    opened: Opener, root: Connection[Cursor], shop: MySQLFamilyServer
) -> None:
    """Nothing of ours. Where this fails a limit covers every statement, and the documents may promise more."""
    if shop.is_mariadb:
        pytest.skip("MariaDB's limit is for every statement")
    session = opened(SHORT)
    with pytest.raises(pymysql.err.OperationalError) as stopped, session.cursor() as cursor:
        cursor.execute(WRITES_FOR_LONG)
    assert stopped.value.args[0] == 2013  # the client gave up
    ends_by_its_limit(root, session.thread_id(), shop)
    assert ask(root, "SELECT COUNT(*) FROM stock WHERE id > 100") == 0


def test_a_wait_for_a_row_is_bounded(opened: Opener) -> None:
    """MySQL's own default is 50 s: longer than many a lease."""
    fence = Fence(statement_seconds=5.0, lock_seconds=1)
    owner, waiting = opened(fence), opened(fence)
    owner.query("UPDATE stock SET pieces = 0 WHERE id = 1")
    since = time.monotonic()
    with pytest.raises(pymysql.err.OperationalError) as stopped:
        waiting.query("UPDATE stock SET pieces = 1 WHERE id = 1")
    assert stopped.value.args[0] == 1205
    assert time.monotonic() - since < 1 + SLACK_S


def test_a_wait_for_a_tables_definition_is_bounded(opened: Opener, root: Connection[Cursor]) -> None:
    """MySQL's own default is a year: one forgotten LOCK TABLES would pile up the whole budget."""
    session = opened(Fence(statement_seconds=5.0, lock_seconds=1))
    root.query("LOCK TABLES stock WRITE")
    since = time.monotonic()
    with pytest.raises(pymysql.err.OperationalError) as stopped:
        ask(session, "SELECT pieces FROM stock WHERE id = 1")
    root.query("UNLOCK TABLES")
    assert stopped.value.args[0] == 1205
    assert time.monotonic() - since < 1 + SLACK_S


def test_an_unread_result_ends_the_session(opened: Opener, root: Connection[Cursor]) -> None:
    """The server's default lets a stuck reader hold its connection for a minute after each packet."""
    session = opened(SHORT)
    cursor = session.cursor(SSCursor)
    cursor.execute(FLOOD)
    seconds_until_gone(root, session.thread_id(), at_most=SHORT.statement_bound_ms / 1_000 + SLACK_S)
    session.close()


def test_a_statement_sent_by_half_ends_the_session(opened: Opener, root: Connection[Cursor]) -> None:
    """Frozen in the middle of a long INSERT: MySQL waits for the rest by another limit than MariaDB, which idles."""
    session = opened(SHORT)
    session._sock.sendall(b"\x00\x00\x10\x00\x03INSERT")  # type: ignore[union-attr] # 1 MB is announced
    seconds_until_gone(root, session.thread_id(), at_most=SHORT.margin_ms / 1_000 + SLACK_S)


def test_no_statement_starts_once_the_lease_could_end_before_it(opened: Opener, root: Connection[Cursor]) -> None:
    """A thawed environment would work on a connection that another worker has by now."""
    session = opened(usable_until_ms=SYSTEM_CLOCK.now_ms() + 60_000)
    session.query("UPDATE stock SET pieces = 99 WHERE id = 2")
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
    for attempt in (session.commit, session.begin, session.is_alive, lambda: session.select_db("shop")):
        with pytest.raises(LeaseLost):
            attempt()
    with pytest.raises(LeaseLost), session.cursor() as cursor:
        cursor.execute("SELECT 1")
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() + 60_000  # renewed
    assert ask(session, "SELECT 1") == 1
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
    session.reset()
    session.close()
    assert session.let_go
    assert ask(root, "SELECT pieces FROM stock WHERE id = 2") == 20


def test_a_rollback_that_comes_too_late_closes_the_session(opened: Opener, root: Connection[Cursor]) -> None:
    """Pools roll back before they close: where that raises they never do, and the lease is lost until its end."""
    session = opened(usable_until_ms=SYSTEM_CLOCK.now_ms() + 60_000)
    session.query("UPDATE stock SET pieces = 99 WHERE id = 2")
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
    session.rollback()
    assert not session.open
    assert session.let_go
    assert ask(root, "SELECT pieces FROM stock WHERE id = 2") == 20


def test_opening_that_took_too_long_sets_nothing_up(opened: Opener) -> None:
    """Opening can be slow: the lease is looked at again before the session is handed out."""
    with pytest.raises(LeaseLost):
        opened(usable_until_ms=SYSTEM_CLOCK.now_ms() - 1)
