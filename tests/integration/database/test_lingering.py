"""No slot is given back while MySQL is still at work for its session. On a real server, both drivers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from aiomysql import SSCursor as AsyncSSCursor
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.errors import LeaseLost
from connection_governor.mysql.stream import AnswerReader
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.tls import make_server_certificate
from tests.support.database import (
    SHORT,
    SLACK_S,
    WORKER,
    Opener,
    ask,
    ends_by_its_limit,
    governor_on,
    lease_ids,
    listed,
    seconds_until_gone,
    stopped,
)
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

DRIVERS = ["pymysql", "aiomysql"]
LONG = "SELECT BENCHMARK(2000000000, SHA2('x', 256))"
SLOW_LOGIN = "SELECT BENCHMARK(8000000, SHA2(1, 256))"  # a SLEEP would look whether its client is still there


@pytest.fixture
def store() -> FaultyStore:
    """Return the leases, a budget of five."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 5)
    return store


@pytest.fixture(scope="module")
def procedures(shop: MySQLFamilyServer) -> None:
    """Procedures that go on after their first result, and one that writes and then fails."""
    shop.execute(
        "DROP PROCEDURE IF EXISTS shop.goes_on",
        f"CREATE PROCEDURE shop.goes_on() BEGIN SELECT 1; {LONG}; END",
        "DROP TABLE IF EXISTS shop.journal",
        "CREATE TABLE shop.journal (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "INSERT INTO shop.journal SELECT seq, 0 FROM shop.seq_1_to_100000",
        "DROP PROCEDURE IF EXISTS shop.writes_and_fails",
        "CREATE PROCEDURE shop.writes_and_fails() MODIFIES SQL DATA"
        " BEGIN UPDATE journal SET pieces = pieces + 1; SIGNAL SQLSTATE '45000'; END",
        "DROP FUNCTION IF EXISTS shop.writes",
        "CREATE FUNCTION shop.writes() RETURNS INT DETERMINISTIC MODIFIES SQL DATA"
        " BEGIN UPDATE journal SET pieces = pieces + 1; RETURN 1; END",
    )


def run_body(driver: str, store: FaultyStore, target: Target, *statements: str, **options: Any) -> int:  # noqa: ANN401
    """Run statements in one governed body; return the session's number."""
    governor = governor_on(store, target, keep_seconds=0, **options)
    if driver == "pymysql":
        with governor.connection(context=Invocation()) as connection:
            for statement in statements:
                connection.query(statement)
            number: int = connection.thread_id()
            return number

    async def work() -> int:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            for statement in statements:
                await connection.query(statement)
            return int(connection.thread_id())

    return asyncio.run(work())


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_result_with_more_to_come_keeps_its_lease(
    driver: str,
    store: FaultyStore,
    target: Target,
    shop: MySQLFamilyServer,
    root: Connection[Cursor],
    procedures: None,
) -> None:
    """The body reads the first result and ends; MySQL works on, and the next worker meets 1226."""
    connection_id = run_body(driver, store, target, "CALL goes_on()")
    assert listed(root, connection_id)
    assert len(lease_ids(store)) == 1
    ends_by_its_limit(root, connection_id, shop)


def test_a_second_statement_of_one_query_keeps_its_lease(opened: Opener, root: Connection[Cursor]) -> None:
    """The same for several statements in one."""
    session = opened(SHORT, client_flag=CLIENT.MULTI_STATEMENTS)
    session.query(f"SELECT 1; {LONG}")
    session.close()
    assert session.may_linger
    seconds_until_gone(root, session.thread_id(), at_most=SHORT.margin_ms / 1_000 + SLACK_S)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM journal RETURNING id", "SELECT writes()", "CALL writes_and_fails()"],
    ids=["returning", "function", "error"],
)
def test_a_transaction_that_no_ok_packet_tells_of_keeps_its_lease(
    driver: str,
    statement: str,
    shop: MySQLFamilyServer,
    target: Target,
    procedures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot is given back while MySQL rolls back what a result or an error said nothing about."""
    if "RETURNING" in statement and not shop.is_mariadb:
        pytest.skip("MySQL has no RETURNING")
    for module in ("close", "async_session"):
        monkeypatch.setattr(f"connection_governor.mysql.{module}.CLOSE_SECONDS", 0.005)
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 5)
    fence = Fence(idle_seconds=1, statement_seconds=20, write_seconds=1)
    with contextlib.suppress(pymysql.err.OperationalError):
        run_body(driver, store, target, statement, fence=fence)
    assert len(lease_ids(store)) == 1


def settled(shop: MySQLFamilyServer) -> int:
    """Return how many connections the server has, once those of earlier tests have gone."""
    counts = [shop.status("Threads_connected")]
    while len(counts) < 5 or len(set(counts[-5:])) > 1:
        time.sleep(0.1)
        counts.append(shop.status("Threads_connected"))
    return counts[-1]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_opening_that_times_out_keeps_its_lease(
    driver: str, store: FaultyStore, target: Target, shop: MySQLFamilyServer
) -> None:
    """The session of a slow `init_connect` lives on, and its slot is lent again."""
    before = settled(shop)
    shop.execute(f"SET GLOBAL init_connect = '{SLOW_LOGIN}'")
    try:
        with pytest.raises(pymysql.err.OperationalError):
            run_body(driver, store, replace(target, connect_seconds=0.3))
    finally:
        shop.execute("SET GLOBAL init_connect = ''")
    lasted = shop.status("Threads_connected")  # the list of processes does not show who is signing in
    assert len(lease_ids(store)) == 1
    assert lasted > before, "the session has ended: the test shows nothing"
    until = time.monotonic() + 30
    while shop.status("Threads_connected") > before:
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_opening_that_fails_before_its_login_releases(
    driver: str, store: FaultyStore, target: Target, tmp_path: Path
) -> None:
    """A wrong authority empties the budget."""
    stranger = make_server_certificate(tmp_path).authority
    with pytest.raises(pymysql.err.OperationalError):
        run_body(driver, store, replace(target, tls_ca=str(stranger)))
    assert lease_ids(store) == set()


def test_a_failed_opening_leaves_no_session_signed_in(opened: Opener, root: Connection[Cursor]) -> None:
    """With PyMySQL 1.1.1 the socket stays open, with the server's own `wait_timeout`."""
    newest = "SELECT MAX(processlist_id) FROM performance_schema.threads WHERE processlist_user = %s"
    before = ask(root, newest, WORKER.username) or 0  # an earlier test's session may still be rolling back
    with pytest.raises(LeaseLost) as late:
        opened(usable_until_ms=SYSTEM_CLOCK.now_ms() - 1)
    until = time.monotonic() + SLACK_S
    while (ask(root, newest, WORKER.username) or 0) > before:
        assert time.monotonic() < until, "its socket is open"
        time.sleep(0.02)
    del late  # with its traceback, which would keep the socket alive


def test_a_stream_left_alone_may_linger(opened: Opener, shop: MySQLFamilyServer) -> None:
    """A body that stops reading a large result gives its slot back while MySQL still sends."""
    session = opened(SHORT)
    session.cursor(SSCursor).execute("SELECT REPEAT('x', 60000) FROM seq_1_to_100000")
    with stopped(shop):
        session.close()
    assert session.may_linger


def test_an_async_stream_left_alone_may_linger(store: FaultyStore, target: Target, shop: MySQLFamilyServer) -> None:
    """The same for asyncio."""

    async def work() -> None:
        async with AsyncGovernor(governor_on(store, target, keep_seconds=0)).connection(context=Invocation()) as one:
            cursor = await one.cursor(AsyncSSCursor)
            await cursor.execute("SELECT REPEAT('x', 60000) FROM seq_1_to_100000")
            cursor._connection = None  # closing it would read to the end
            end.enter_context(stopped(shop))

    with contextlib.ExitStack() as end:
        asyncio.run(work())
        assert len(lease_ids(store)) == 1


def test_an_error_torn_into_a_query_does_not_answer_it(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any exception counts as an answer, and the slot is given back while the query runs on."""
    session = opened(SHORT)

    def torn(_reader: AnswerReader, _count: int) -> None:
        raise KeyError("a bug of the body's own")

    monkeypatch.setattr(AnswerReader, "fill", torn)
    with pytest.raises(KeyError):
        session.query("SELECT SLEEP(0.4)")
    session.close()
    assert session.may_linger


@contextlib.contextmanager
def slow_network(target: Target, bytes_a_second: int) -> Iterator[Target]:
    """Yield a way to the server that lets so little through, in both directions."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as ends:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while not over.is_set() and (data := source.recv(16_384)):
                    sink.sendall(data)
                    time.sleep(len(data) / bytes_a_second)
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.create_connection((target.host, target.port))
                    for one in (client, server):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                        ends.callback(one.close)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield replace(target, port=listener.getsockname()[1])
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


TRANSFERS: dict[str, Callable[[], str]] = {
    "a large row": lambda: "SELECT REPEAT('x', 6000000)",
    "a large statement": lambda: f"SELECT LENGTH('{'x' * 12_000_000}')",
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("transfer", TRANSFERS)
def test_a_slow_transfer_is_given_up_in_a_statements_time(
    driver: str, transfer: str, store: FaultyStore, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte starts the time-out anew; one large row outlives the lease, and MySQL counts one too many."""
    monkeypatch.setattr(Fence, "read_seconds", 1.0)
    with slow_network(target, 1_500_000) as slow:
        since = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError):
            run_body(driver, store, slow, TRANSFERS[transfer]())
        assert time.monotonic() - since < 1.0 + SLACK_S
    assert len(lease_ids(store)) == 1


def test_each_part_of_a_huge_statement_has_only_what_is_left_of_the_time(
    opened: Opener, shop: MySQLFamilyServer
) -> None:
    """A statement of many megabytes goes out in several writes, and each starts the time anew."""
    session = opened(SHORT)
    session._allow(0.2)
    with stopped(shop):
        since = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError):
            session._write_bytes(bytes(20_000_000))
        assert time.monotonic() - since < 0.2 + SLACK_S


def test_a_streamed_row_is_given_up_at_the_leases_usable_end(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that streams goes on past its lease, row after row."""
    from connection_governor.mysql.connect import open_session  # noqa: PLC0415 - of this test only

    monkeypatch.setattr(Fence, "read_seconds", 1.0)
    with slow_network(target, 1_500_000) as slow:
        fence = Fence(idle_seconds=1, statement_seconds=20, write_seconds=5)
        session = open_session(slow, WORKER, fence, usable_until_ms=SYSTEM_CLOCK.now_ms() + 60_000)
        cursor = session.cursor(SSCursor)
        cursor.execute("SELECT REPEAT('x', 1000000) FROM seq_1_to_20")
        session.usable_until_ms = SYSTEM_CLOCK.now_ms() + 500
        since = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError):
            cursor.fetchall()
        assert time.monotonic() - since < 1.5 + SLACK_S
        session.close()
    assert session.may_linger
