"""Kept connections on a real MariaDB: nothing leaks, the store is not asked, and the server's end comes first."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import pymysql
import pytest

from connection_governor.core.lease import ShardKey
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.errors import GovernorUnavailable, LeaseLost, NoConnectionsLeft
from connection_governor.mysql.session import RESET_SECONDS
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import (
    KEEP_SECONDS,
    SHORT,
    SLACK_S,
    WORKER,
    ask,
    governor_on,
    lease_ids,
    listed,
    seconds_until_gone,
    stopped,
)
from tests.support.faulty_store import LOST, FaultyStore
from tests.support.invocation import Invocation
from tests.support.worlds import endpoint_of, environment_of, local_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.client.governor import Governor
    from connection_governor.database.target import Target
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer


@pytest.fixture
def store() -> FaultyStore:
    """Return the leases, a budget of ten; each request is noted."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 10)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target) -> Iterator[Governor]:
    """Yield a governor that keeps its connection."""
    governor = governor_on(store, target)
    yield governor
    governor.close()


@contextmanager
def body(governor: Governor, **options: Any) -> Iterator[FencedConnection]:  # noqa: ANN401 - the governor's own
    """Yield one invocation's use of a connection."""
    with governor.connection(context=Invocation(), **options) as connection:
        yield connection


def test_the_next_body_gets_the_same_session_without_asking_anybody(governor: Governor, store: FaultyStore) -> None:
    """The warm path, the only purpose of a kept connection, is lost."""
    with body(governor) as connection:
        first = ask(connection, "SELECT CONNECTION_ID()")
    del store.calls[:]
    for _ in range(3):
        with body(governor) as connection:
            assert ask(connection, "SELECT CONNECTION_ID()") == first
    assert store.calls == []
    assert len(lease_ids(store)) == 1


def test_nothing_of_a_session_reaches_the_next_body(governor: Governor, root: Connection[Cursor]) -> None:
    """One customer's data, settings and locks in the next customer's invocation."""
    with body(governor) as connection, connection.cursor() as cursor:
        first = connection.thread_id()
        before = {name: ask(connection, f"SELECT @@{name}") for name in ("time_zone", "sql_mode", "autocommit")}
        cursor.execute("SET @mine = 'secret'")
        cursor.execute("CREATE TEMPORARY TABLE scratch (id INT)")
        cursor.execute("SELECT GET_LOCK('mine', 0)")
        cursor.execute("SET time_zone = '+09:00', sql_mode = '', autocommit = 1, wait_timeout = 28800")
        cursor.execute("USE other")
        connection.begin()
        cursor.execute("UPDATE shop.stock SET pieces = 99 WHERE id = 1")
    root.query("SELECT pieces FROM shop.stock WHERE id = 1 FOR UPDATE NOWAIT")
    with body(governor) as connection:
        assert connection.thread_id() == first
        assert ask(connection, "SELECT @mine") is None
        assert ask(connection, "SELECT IS_FREE_LOCK('mine')") == 1
        assert ask(connection, "SELECT DATABASE()") == "shop"
        assert ask(connection, "SELECT @@wait_timeout") == KEEP_SECONDS
        assert {name: ask(connection, f"SELECT @@{name}") for name in before} == before
        assert ask(connection, "SELECT pieces FROM stock WHERE id = 1") == 10
        with pytest.raises(pymysql.err.ProgrammingError, match="scratch"):
            ask(connection, "SELECT * FROM scratch")


def test_a_mysql_error_ends_the_kept_session(governor: Governor, store: FaultyStore, root: Connection[Cursor]) -> None:
    """A session in an unknown state is handed to the next invocation."""
    with pytest.raises(pymysql.err.ProgrammingError), body(governor) as connection:
        connection.query("SELECT * FROM nowhere")
    assert not listed(root, connection.thread_id())
    assert lease_ids(store) == set()
    with body(governor) as another:
        assert ask(another, "SELECT 1") == 1


def test_any_other_error_only_rolls_back(governor: Governor) -> None:
    """A worker that raises for a bad request pays for a new connection each time."""
    with pytest.raises(ValueError, match="bad request"), body(governor) as connection:  # noqa: PT012 - a body has lines
        connection.query("UPDATE stock SET pieces = 99 WHERE id = 1")
        raise ValueError("bad request")
    with body(governor) as another:
        assert another is connection
        assert ask(another, "SELECT pieces FROM stock WHERE id = 1") == 10


def test_a_query_that_was_torn_off_is_not_answered_in_the_next_body(governor: Governor) -> None:
    """A time-out by signal leaves an answer in the socket, which the next invocation takes for its own."""

    def out_of_time(number: int, frame: object) -> None:
        raise RuntimeError("out of time")

    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        with pytest.raises(RuntimeError, match="out of time"), body(governor) as connection:  # noqa: PT012 - a timer needs to be set
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            connection.query("SELECT SLEEP(0.4), 'theirs'")
    finally:
        signal.signal(signal.SIGALRM, before)
    with body(governor) as another:
        assert another is not connection
        assert ask(another, "SELECT 'mine'") == "mine"


def test_a_chosen_schema_does_not_reach_the_next_body(store: FaultyStore, target: Target) -> None:
    """Without DB_NAME, one tenant's tables are the next one's. A reset does not take a USE back."""
    governor = governor_on(store, replace(target, database=None))
    with body(governor) as connection:
        pass
    with body(governor) as again:
        assert again is connection
        ask(again, "USE other")
    assert not again.open
    assert lease_ids(store) == set()
    with body(governor) as another:
        assert ask(another, "SELECT DATABASE()") is None
    governor.close()


def test_a_stopped_server_is_not_waited_for_at_the_end_of_a_body(
    governor: Governor, store: FaultyStore, shop: MySQLFamilyServer
) -> None:
    """An invocation whose work is done runs into its time limit. MySQL may continue with it: the lease stays."""
    assert SHORT.read_seconds > RESET_SECONDS + SLACK_S
    with ExitStack() as end:
        with body(governor) as connection:
            connection.query("SELECT 1")
            end.enter_context(stopped(shop))
            since = time.monotonic()
        assert time.monotonic() - since < RESET_SECONDS + SLACK_S
    assert not connection.open
    assert connection.lease is not None
    assert lease_ids(store) == {connection.lease.lease_id}
    with body(governor) as another:
        assert ask(another, "SELECT 1") == 1


@pytest.mark.parametrize("keep_seconds", [0, KEEP_SECONDS])
def test_another_threads_query_does_not_hold_up_the_end_of_a_body(
    governor: Governor, store: FaultyStore, root: Connection[Cursor], keep_seconds: int
) -> None:
    """A query that its body gave up on takes the invocation's time all the same. Its lease ends by itself."""
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(TimeoutError), body(governor, keep_seconds=keep_seconds) as connection:  # noqa: PT012 - a body has lines
            query = pool.submit(connection.query, "SELECT BENCHMARK(2000000000, SHA2('x', 256))")
            query.result(timeout=0.1)
        assert listed(root, connection.thread_id())
        assert len(lease_ids(store)) == 1
        assert isinstance(query.exception(timeout=SLACK_S), pymysql.err.OperationalError)
    seconds_until_gone(root, connection.thread_id(), at_most=SHORT.margin_ms / 1_000 + SLACK_S)


def test_a_session_that_was_killed_is_replaced(
    governor: Governor, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """After a failover or a KILL every warm environment fails its next invocation."""
    with body(governor) as connection:
        first = connection.thread_id()
    root.query(f"KILL {first}")
    time.sleep(0.1)
    with body(governor) as another:
        assert ask(another, "SELECT CONNECTION_ID()") != first
        assert len(lease_ids(store)) == 1
        assert another.lease is not None
        assert lease_ids(store) == {another.lease.lease_id}


def test_a_second_body_at_the_same_time_gets_a_lease_of_its_own(governor: Governor, store: FaultyStore) -> None:
    """Two threads write into one socket."""
    with body(governor) as one:
        with body(governor) as two:
            assert one.thread_id() != two.thread_id()
            assert len(lease_ids(store)) == 2
        assert len(lease_ids(store)) == 2  # the first that ends is kept
    assert not one.open
    assert two.lease is not None
    assert lease_ids(store) == {two.lease.lease_id}
    with body(governor) as again:
        assert again is two


def test_the_server_ends_an_idle_session_before_its_lease(
    governor: Governor, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """The slot is granted to another while MySQL still counts the frozen environment's session."""
    with body(governor) as connection:
        pass
    took_s = seconds_until_gone(root, connection.thread_id(), at_most=KEEP_SECONDS + SLACK_S)
    assert took_s > KEEP_SECONDS - 0.5
    assert connection.lease is not None
    assert SYSTEM_CLOCK.now_ms() < connection.lease.expires_at_ms
    with body(governor) as another:
        assert another is not connection
        assert another.lease is not None
        assert lease_ids(store) == {another.lease.lease_id}


def test_under_pressure_nothing_is_kept(store: FaultyStore, target: Target, root: Connection[Cursor]) -> None:
    """The last connections are kept by the first environments."""
    with ExitStack() as others:
        for _ in range(8):
            others.enter_context(governor_on(store, target, keep_seconds=0).lease(context=Invocation(30)))
        governor = governor_on(store, target)
        with body(governor) as connection:
            pass
        assert not listed(root, connection.thread_id())
        assert len(lease_ids(store)) == 8
    with body(governor) as again:  # it remembers, although there is room again
        pass
    assert not listed(root, again.thread_id())


def test_a_renewal_that_shows_pressure_ends_the_keeping(store: FaultyStore, target: Target) -> None:
    """An environment that took its connection in calm times keeps it in the rush."""
    governor, rush = governor_on(store, target), governor_on(store, target, keep_seconds=0)
    with body(governor):
        pass
    leases = [rush.acquire(lease_ms=30_000) for _ in range(9)]
    with governor.connection(context=Invocation(20)) as connection:  # longer than the lease covers
        assert ask(connection, "SELECT 1") == 1
    assert lease_ids(store) == {lease.lease_id for lease in leases}


def test_a_lowered_budget_takes_the_kept_connection_back(store: FaultyStore, target: Target) -> None:
    """A budget lowered at 3 a.m. is held down by idle connections."""
    governor = governor_on(store, target)
    with body(governor):
        pass
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 0)
    with pytest.raises(NoConnectionsLeft), governor.connection(context=Invocation(20), timeout=0):
        pass
    assert lease_ids(store) == set()


def test_an_outage_at_the_renewal_leaves_the_kept_session_for_later(store: FaultyStore, target: Target) -> None:
    """A minute without DynamoDB also costs every environment its connection."""
    governor = governor_on(store, target)
    with body(governor) as connection:
        pass
    store.plan("renew", *[LOST] * 6)
    with pytest.raises(GovernorUnavailable), governor.connection(context=Invocation(20)):
        pass
    with body(governor) as again:
        assert again is connection


def test_a_worker_that_may_connect_without_a_lease_uses_its_kept_session(store: FaultyStore, target: Target) -> None:
    """`on_unavailable="open"` refuses the worker that has a connection already."""
    governor = governor_on(store, target, on_unavailable="open")
    with body(governor) as connection:
        pass
    store.plan("renew", *[LOST] * 6)
    with governor.connection(context=Invocation(20)) as ungoverned:
        assert ungoverned is connection
        assert ask(ungoverned, "SELECT 1") == 1
    assert not ungoverned.open


def test_past_the_lease_nothing_is_sent(store: FaultyStore, target: Target) -> None:
    """A body that outlives its lease continues although its slot may be another's."""
    governor = governor_on(store, target, keep_seconds=1)
    with pytest.raises(LeaseLost), governor.connection(lease_ms=1_000) as connection:  # noqa: PT012 - time must pass
        connection.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
        connection.query("SELECT 1")
    assert lease_ids(store) == set()


class FrozenWorker:
    """A process of its own that keeps a connection, and can be stopped in the middle of its life."""

    def __init__(self, **options: object) -> None:
        command = [sys.executable, "-m", "tests.integration.database.kept_worker", json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def use(self) -> dict[str, Any]:
        """Return one invocation; what it saw."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("use\n")
        self.process.stdin.flush()
        seen: dict[str, Any] = json.loads(self.process.stdout.readline())
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.mark.parametrize("how", ["exit", "SIGTERM"])
def test_the_end_of_a_process_waits_for_nothing(
    shop: MySQLFamilyServer, target: Target, dynamodb_local: str, root: Connection[Cursor], how: str
) -> None:
    """An environment that is shut down hangs until it is killed, and its callers wait."""
    endpoint = endpoint_of(dynamodb_local)
    store = local_store(endpoint)
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 4)
    with FrozenWorker(
        environment=dict(environment_of(dynamodb_local, store._table).variables),
        target={"host": target.host, "port": target.port, "database": "shop", "tls_ca": target.tls_ca},
        credentials=(WORKER.username, WORKER.password),
        keep_seconds=60,
    ) as worker:
        seen = worker.use()
        since = time.monotonic()
        if how == "exit":
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        else:
            worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(timeout=5)
        assert time.monotonic() - since < 1.0
    seconds_until_gone(root, seen["connection_id"], at_most=SLACK_S)
    shard = store.read([ShardKey("orders", 0)], consistent=True)[0]
    assert shard is not None
    assert set(shard.leases) == {seen["lease_id"]}  # for the extension, or its own end
    endpoint.close()


def test_a_frozen_environments_session_is_gone_before_its_slot_is_granted(
    shop: MySQLFamilyServer, target: Target, dynamodb_local: str
) -> None:
    """Promise 5. MySQL counts the frozen environment's session and that of the lease's next holder."""
    user = Login("frozen", "pw")
    shop.create_user(user.username, user.password, max_user_connections=2, grants=["ALL ON shop.*"])
    endpoint = endpoint_of(dynamodb_local)
    store = local_store(endpoint)
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 4, skew_ms=100)
    peak, over = [0], threading.Event()

    def watch() -> None:
        with shop.root() as root:
            while not over.wait(0.005):
                count = ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = 'frozen'")
                peak[0] = max(peak[0], count)

    watcher = threading.Thread(target=watch)
    rest = governor_on(store, target).acquire(connections=2, lease_ms=60_000)  # two are left, without pressure
    with FrozenWorker(
        environment=dict(environment_of(dynamodb_local, store._table).variables),
        target={"host": target.host, "port": target.port, "database": "shop", "tls_ca": target.tls_ca},
        credentials=(user.username, user.password),
        keep_seconds=KEEP_SECONDS,
    ) as worker:
        watcher.start()
        first = worker.use()
        assert worker.use() == first
        worker.process.send_signal(signal.SIGSTOP)
        others = [governor_on(store, target, credentials=user) for _ in range(2)]
        with (
            others[0].connection(lease_ms=60_000, keep_seconds=0),
            others[1].connection(lease_ms=60_000, keep_seconds=0, timeout=30) as taker,
        ):
            assert taker.lease is not None
            assert first["lease_id"] not in store.read([taker.lease.key], consistent=True)[0].leases  # type: ignore[union-attr]
            assert ask(taker, "SELECT 1") == 1
        worker.process.send_signal(signal.SIGCONT)
        second = worker.use()
        assert second["error"] is None
        assert second["lease_id"] != first["lease_id"]
        assert second["connection_id"] != first["connection_id"]
        over.set()
        watcher.join()
    assert peak[0] == 2
    rest_and_worker = store.read([rest.key], consistent=True)[0]
    assert rest_and_worker is not None
    assert set(rest_and_worker.leases) <= {rest.lease_id, second["lease_id"]}
    endpoint.close()
