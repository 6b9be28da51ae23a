"""MySQL's own event stops every kind of statement at its limit. On a real MySQL, which by itself stops only SELECT."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql.constants import COMMAND

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection, open_session
from connection_governor.server.mysql import statement_limit
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import SLACK_S, ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from harness.stack.mysql import PrivateMySQL

WORKER = Login("limited_worker", "WorkerSecret1")
MONITOR = Login("limited_monitor", "MonitorSecret1")
NAME = "governor:k3Zq81Bd:orders#3"
FENCE = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
WITHIN_S = FENCE.statement_seconds + 1
"""The event runs each second, so a statement has its limit and at most a second more."""

STATEMENTS = {
    "UPDATE": "UPDATE limited.stock SET pieces = SLEEP(9) WHERE id = 1",
    "DELETE": "DELETE FROM limited.stock WHERE id = 2 AND SLEEP(9) = 7",
    "INSERT SELECT": "INSERT INTO limited.journal SELECT SLEEP(1) FROM limited.stock a, limited.stock b",
    "CREATE TABLE AS": "CREATE TABLE limited.made AS SELECT SLEEP(9)",
    "SET": "SET @v = (SELECT BENCHMARK(2000000000, SHA2('x', 256)))",
    "DO": "DO SLEEP(9)",
    "CALL": "CALL limited.work()",
    "SELECT": "SELECT BENCHMARK(2000000000, SHA2('x', 256))",
}
Open = Callable[..., FencedConnection]
MISTAKABLE = {
    "another program": ("mysqldump", 1_000),
    "the janitor": ("governor-janitor", 1_000),
    "another form of name": ("governor:short:orders#0", 1_000),
    "a name within a name": ("x" + NAME, 1_000),
    "a longer limit": (NAME, 60_000),
    "no limit": (NAME, 0),
}


@pytest.fixture(scope="module")
def server(mysql: PrivateMySQL) -> Iterator[PrivateMySQL]:
    """Yield the server with the event, a worker's and a janitor's user, and something to work on."""
    mysql.create_user(WORKER.username, WORKER.password, grants=["ALL ON limited.*"])
    mysql.create_user(MONITOR.username, MONITOR.password)
    mysql.execute(
        "CREATE DATABASE limited",
        "CREATE TABLE limited.stock (id INT PRIMARY KEY, pieces INT)",
        "INSERT INTO limited.stock VALUES (1, 10), (2, 20), (3, 30)",
        "CREATE TABLE limited.journal (pieces INT)",
        "CREATE PROCEDURE limited.work() BEGIN SELECT 1; UPDATE limited.stock SET pieces = SLEEP(9) WHERE id = 3; END",
    )
    with as_root(mysql) as cursor:
        assert statement_limit.make(cursor, worker=WORKER.username, monitor=MONITOR.username) is None
    yield mysql
    with as_root(mysql) as cursor:
        statement_limit.remove(cursor, worker=WORKER.username)
    mysql.execute("DROP DATABASE limited", f"DROP USER '{WORKER.username}', '{MONITOR.username}'")


@contextlib.contextmanager
def as_root(server: PrivateMySQL) -> Iterator[Cursor]:
    """Yield a cursor of the administrator."""
    with contextlib.closing(server.root()) as connection, connection.cursor() as cursor:
        yield cursor


def target_of(server: PrivateMySQL) -> Target:
    """Return where the server listens."""
    assert server.port is not None
    return Target(server.host, server.port, tls_ca=str(server.ca_path))


@pytest.fixture
def opened(server: PrivateMySQL) -> Iterator[Open]:
    """Open sessions under a lease's name; close them after the test."""
    target = target_of(server)
    with contextlib.ExitStack() as sessions:

        def open_one(login: Login = WORKER, name: str = NAME, fence: Fence = FENCE) -> FencedConnection:
            session = open_session(target, login, fence, program_name=name)
            sessions.callback(session.close)
            return session

        yield open_one


def worked(session: FencedConnection, statement: str) -> None:
    """Run a statement to the end of its last result."""
    with contextlib.suppress(pymysql.err.OperationalError), session.cursor() as cursor:
        cursor.execute(statement)


def seconds_of_all(statements: dict[str, tuple[FencedConnection, str]]) -> dict[str, float]:
    """Run statements at the same time; return how long each took."""
    took: dict[str, float] = {}

    def run(key: str, session: FencedConnection, statement: str) -> None:
        since = time.monotonic()
        worked(session, statement)
        took[key] = time.monotonic() - since

    threads = [threading.Thread(target=run, args=(key, *work)) for key, work in statements.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def late(took: dict[str, float], within_s: float = WITHIN_S + SLACK_S) -> dict[str, float]:
    """Return what did not end between its limit and the bound."""
    return {key: seconds for key, seconds in took.items() if not FENCE.statement_seconds - 0.1 < seconds < within_s}


def test_every_kind_of_statement_is_stopped_at_its_limit(opened: Open) -> None:
    """MySQL stops only a SELECT. Each of the others once ran on for minutes, and its slot was granted again."""
    statements = {kind: (opened(), statement) for kind, statement in STATEMENTS.items()}
    in_transaction = opened()
    in_transaction.begin()
    statements["in a transaction"] = (in_transaction, "DO SLEEP(9)")
    assert late(seconds_of_all(statements)) == {}


def test_a_prepared_statement_is_stopped_too(opened: Open) -> None:
    """Other drivers prepare each statement on the server, where it runs under another command."""
    session = opened()
    session._execute_command(COMMAND.COM_STMT_PREPARE, "DO SLEEP(9)")
    number = session._read_packet()._data[1:5]
    since = time.monotonic()
    session._execute_command(COMMAND.COM_STMT_EXECUTE, number + struct.pack("<BI", 0, 1))
    session._read_packet()
    assert late({"execute": time.monotonic() - since}) == {}


def test_other_sessions_and_longer_limits_are_spared(opened: Open) -> None:
    """A backup or a report of somebody else's would be stopped in the middle."""
    sessions = {}
    for kind, (name, limit_ms) in MISTAKABLE.items():
        session = opened(name=name)
        session.query(f"SET max_execution_time = {limit_ms}")
        sessions[kind] = (session, "DO SLEEP(2.5)")
    assert {kind for kind, seconds in seconds_of_all(sessions).items() if seconds < 2.4} == set()


def finishes(session: FencedConnection) -> None:
    """End the stream in good order, as the death of a process does."""
    session._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]


def resets(session: FencedConnection) -> None:
    """Break the stream, as the death of a process with unread bytes does."""
    sock = session._sock
    assert sock is not None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=sock.detach()).close()


@pytest.mark.parametrize("leave", [lambda _session: None, finishes, resets], ids=["frozen", "FIN", "RST"])
def test_the_session_of_a_client_that_is_gone_ends_in_time(
    leave: Callable[[FencedConnection], None], opened: Open, server: PrivateMySQL
) -> None:
    """The promise that MySQL agrees: the slot is granted again at the lease's end, so the session must be gone."""
    session = opened()
    session._execute_command(COMMAND.COM_QUERY, STATEMENTS["UPDATE"])
    leave(session)
    with contextlib.closing(server.root()) as root:
        gone_s = seconds_until_ended(root, session.thread_id())
    assert FENCE.statement_seconds < gone_s < WITHIN_S + FENCE.idle_seconds + SLACK_S


def seconds_until_ended(root: Connection[Cursor], connection_id: int) -> float:
    """Return after how long the server has freed a session's place; its list of processes is ahead of that."""
    since = time.monotonic()
    while ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_id = %s", connection_id):
        assert time.monotonic() - since < 8
        time.sleep(0.02)
    return time.monotonic() - since


@pytest.mark.parametrize("driver", ["pymysql", "aiomysql"])
def test_a_session_whose_statement_was_stopped_stays_usable_and_releases(driver: str, server: PrivateMySQL) -> None:
    """The body sees error 1317 and may go on; a session given up, or a lease left to expire, would cost a slot."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 5)
    governor = governor_on(store, target_of(server), credentials=WORKER, fence=FENCE)
    seen = []

    def body() -> None:
        with governor.connection(context=Invocation()) as session:
            with pytest.raises(pymysql.err.OperationalError) as stopped:
                session.query(STATEMENTS["INSERT SELECT"])
            seen.extend([stopped.value.args[0], ask(session, "SELECT 1"), session.thread_id()])

    async def async_body() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as session:
            with pytest.raises(pymysql.err.OperationalError) as stopped:
                await session.query(STATEMENTS["INSERT SELECT"])
            await session.query("DO 1")
            seen.extend([stopped.value.args[0], 1, session.thread_id()])

    if driver == "pymysql":
        body()
        with governor.connection(context=Invocation()) as again:  # the kept session, reset
            assert again.thread_id() == seen[2]
        governor.close()
    else:
        asyncio.run(async_body())
    assert seen[:2] == [1317, 1]
    assert lease_ids(store) == set()


def test_the_taker_works_right_after_the_leases_end(server: PrivateMySQL) -> None:
    """Budget 1, and MySQL's own limit 1: a taker was still refused with 1226 forty seconds after the holder froze."""
    server.execute(f"ALTER USER '{WORKER.username}' WITH MAX_USER_CONNECTIONS 1")
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 1, skew_ms=0)
    holder, taker = (
        governor_on(store, target_of(server), credentials=WORKER, fence=FENCE, keep_seconds=0) for _ in range(2)
    )
    with contextlib.ExitStack() as frozen:
        frozen.callback(server.execute, f"ALTER USER '{WORKER.username}' WITH MAX_USER_CONNECTIONS 0")
        held = frozen.enter_context(holder.connection(lease_ms=FENCE.guard_ms + 300))
        frozen.callback(resets, held)
        held._execute_command(COMMAND.COM_QUERY, STATEMENTS["SET"])
        with taker.connection(timeout=FENCE.guard_ms / 1_000 + 3, lease_ms=FENCE.guard_ms + 5_000) as free:
            assert ask(free, "SELECT 1") == 1


def test_it_works_at_a_full_server(opened: Open, server: PrivateMySQL) -> None:
    """An overrun statement is one of those that fill the server: the net must not need a connection to stop it."""
    session = opened()
    with contextlib.ExitStack() as filled:
        with contextlib.suppress(pymysql.err.OperationalError):
            while True:
                filled.callback(opened(name="filler").close)
        assert late(seconds_of_all({"DO": (session, "DO SLEEP(9)")})) == {}


def test_it_runs_again_after_a_restart(opened: Open, server: PrivateMySQL) -> None:
    """A failover restarts the server, and no seed runs then."""
    server.restart()
    assert late(seconds_of_all({"DO": (opened(), "DO SLEEP(9)")})) == {}
