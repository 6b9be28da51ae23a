"""The extension under the real emulator: a crashed environment's lease comes back at once, and never too early."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.client.lease_file import SUFFIX
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, ShardKey, Wanted, record_expiry_ms
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.metrics import Reporter
from connection_governor.server.payloads import Requests
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.virtual import SetClock
from tests.support.worlds import endpoint_of, environment_of, new_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.stack.mysql_family import MySQLFamilyServer
    from tests.support.lambda_emulator import LambdaEnvironment

BUDGET = 5


class GovernorFunction(ThreadingHTTPServer):
    """The governor's payloads behind Lambda's Invoke, on leases in memory.

    Attributes:
        actions: what was asked, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Invocation)
        store = MemoryStore()
        operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
        operations.set_budget("orders", 5)
        quiet = Reporter(write=lambda _line: None)
        service = Service(Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY), lambda: operations, quiet, SYSTEM_CLOCK)
        self.requests = Requests(service, SYSTEM_CLOCK, SYSTEM_ENTROPY)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.actions: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever)

    def status(self) -> dict[str, Any]:
        """Return the leases."""
        answer = self.requests.answer({"action": "status", "database": "orders"})
        assert isinstance(answer, dict)
        return answer

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Invocation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: GovernorFunction

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.actions.append(request["action"])
        answer = json.dumps(self.server.requests.answer(request)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class Table:
    """The leases, on DynamoDB Local."""

    def __init__(self, store: DynamoDBStore, variables: dict[str, str]) -> None:
        self._store = store
        self.variables = variables

    def held(self) -> list[str]:
        """Return the ids of the stored leases."""
        return list(self._leases())

    def take_all(self, *, at_ms: int) -> str | None:
        """Ask for the whole budget, at that time: the id of the lease; None: refused."""
        wanted = Wanted("orders", SYSTEM_ENTROPY.lease_id(), "whoever", BUDGET, at_ms + 10_000)
        outcome = Engine(self._store, SetClock(at_ms), SYSTEM_ENTROPY).acquire(wanted)
        return outcome.lease.lease_id if isinstance(outcome, Grant) else None

    def assert_ends_by_itself(self) -> None:
        """Check that the only lease is taken over at its expiry plus the allowance for clocks, and not before."""
        ((lease_id, record),) = self._leases().items()
        settings = self._store.settings("orders", consistent=True)
        assert settings is not None
        last_ms = record_expiry_ms(record) + settings.skew_ms
        assert self.take_all(at_ms=last_ms) is None
        assert self.held() == [lease_id]
        taker = self.take_all(at_ms=last_ms + 1)
        assert taker is not None
        assert self.held() == [taker]

    def _leases(self) -> Mapping[str, str]:
        shard = self._store.read([ShardKey("orders", 0)], consistent=True)[0]
        assert shard is not None
        return shard.leases


@pytest.fixture
def table(dynamodb_local: str) -> Iterator[Table]:
    """Yield a budget large enough for connections to be kept."""
    with closing(endpoint_of(dynamodb_local)) as endpoint:
        name = new_table(endpoint)
        store = DynamoDBStore(DynamoDBCaller(endpoint), name)
        Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
        variables = dict(environment_of(dynamodb_local, name).variables)
        yield Table(store, variables | {"GOVERNOR_TRANSPORT": "direct"})


@pytest.fixture
def worker(
    environment: Callable[..., LambdaEnvironment],
    table: Table,
    database_server: MySQLFamilyServer,
    tmp_path_factory: object,
) -> LambdaEnvironment:
    """Return an environment whose function holds a connection to a real MariaDB."""
    database_server.create_user("crashing", "pw", max_user_connections=5)
    return environment(PORT=str(database_server.port), CA=str(database_server.ca_path), **table.variables)


def sessions(database_server: MySQLFamilyServer) -> int:
    """Return how many sessions the workers have."""
    with closing(database_server.root()) as root, root.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = 'crashing'")
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.parametrize("act", ["hang", "exit", "kill"])
def test_a_crashed_environments_lease_is_back_before_its_caller_is_answered(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer, act: str
) -> None:
    """Each time-out or crash costs a connection until its lease ends, 16 s after the deadline."""
    _, answer = worker.invoke(act)
    assert "Task timed out" in answer or "Runtime.ExitError" in answer or "signal: killed" in answer, answer
    assert table.held() == []
    assert sessions(database_server) == 0
    status, answer = worker.invoke("use")  # the next runtime, with the next extension, in the same /tmp
    assert status == 200
    assert "error" not in answer
    assert table.held() == []


def test_the_lease_of_a_running_statement_is_left_to_expire(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer
) -> None:
    """The slot is granted again while MySQL still works for the crashed worker, and counts two."""
    worker.invoke("kill in a statement")
    assert_left(table, database_server)


def assert_left(table: Table, database_server: MySQLFamilyServer) -> None:
    """MySQL is still at work for the only session, and its lease is still held."""
    assert sessions(database_server) == 1
    assert len(table.held()) == 1
    since = time.monotonic()
    while sessions(database_server):  # it is no other test's business
        assert time.monotonic() - since < 10
        time.sleep(0.1)


@pytest.fixture
def held_row(database_server: MySQLFamilyServer) -> Iterator[None]:
    """Lock a row from another session: an update waits for it, and does not look at its client."""
    database_server.execute(
        "CREATE DATABASE IF NOT EXISTS test",
        "DROP TABLE IF EXISTS test.held",
        "CREATE TABLE test.held (id INT PRIMARY KEY, n INT) ENGINE=InnoDB",
        "INSERT INTO test.held VALUES (1, 0)",
        "DROP PROCEDURE IF EXISTS test.answer_and_go_on",
        "CREATE PROCEDURE test.answer_and_go_on() SQL SECURITY INVOKER"
        " BEGIN SELECT 1; UPDATE test.held SET n = n + 1; END",
        "GRANT ALL ON test.* TO 'crashing'@'%'",
    )
    with closing(database_server.root("test")) as root:
        root.begin()
        root.query("SELECT * FROM held FOR UPDATE")
        yield


def test_the_lease_of_a_session_that_was_reset_is_left_to_expire(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer, held_row: None
) -> None:
    """The kernel forgets the socket of a process that died with unread rows; the procedure goes on."""
    worker.invoke("kill with an unread answer")
    assert_left(table, database_server)


def test_the_lease_of_a_session_that_was_being_opened_is_left_to_expire(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer, held_row: None
) -> None:
    """A time-out during a slow login lends the slot again while MySQL still counts the session."""
    database_server.execute(
        "SET GLOBAL init_connect = 'SET innodb_lock_wait_timeout = 6; UPDATE test.held SET n = n + 1'"
    )
    try:
        _, answer = worker.invoke("hang")
        assert "timed out" in answer
        assert_left(table, database_server)
    finally:
        database_server.execute("SET GLOBAL init_connect = ''")


def test_a_kept_connection_is_released_when_the_environment_is_shut_down(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer
) -> None:
    """After each burst of work the budget is held by environments that are gone."""
    status, _ = worker.invoke("use", keep=60)
    assert status == 200
    assert len(table.held()) == 1
    assert worker.terminate() < 2.5
    assert table.held() == []
    assert sessions(database_server) == 0


def test_when_everything_is_killed_the_lease_ends_by_itself(
    worker: LambdaEnvironment, table: Table, database_server: MySQLFamilyServer
) -> None:
    """No process is left to release: the slot must come back when its lease expires."""
    worker.invoke("use", keep=2)
    worker.server.process.kill()
    worker.server.process.wait()
    time.sleep(0.5)
    assert sessions(database_server) == 0
    table.assert_ends_by_itself()


def test_without_an_extension_nothing_is_noted_and_the_lease_ends_by_itself(
    environment: Callable[..., LambdaEnvironment], table: Table
) -> None:
    """Workers that take the package from PyPI, and not the layer."""
    worker = environment(extension=False, **table.variables)
    assert worker.invoke("measure", times=10)[0] == 200
    assert "timed out" in worker.invoke("lease", sleep=10)[1]
    assert worker.invoke("noted") == (200, "null")
    table.assert_ends_by_itself()


@pytest.fixture
def function() -> Iterator[GovernorFunction]:
    """Yield the governor function, as a worker with the `lambda` transport reaches it."""
    with GovernorFunction() as function:
        yield function


def test_with_the_lambda_transport_too(
    environment: Callable[..., LambdaEnvironment], function: GovernorFunction, database_server: MySQLFamilyServer
) -> None:
    """Workers that may do no more than invoke the function wait for the lease's end."""
    database_server.create_user("crashing", "pw", max_user_connections=5)
    worker = environment(
        AWS_ENDPOINT_URL_LAMBDA=function.url,
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        GOVERNOR_TRANSPORT="lambda",
        GOVERNOR_FUNCTION="governor",
        PORT=str(database_server.port),
        CA=str(database_server.ca_path),
    )
    _, answer = worker.invoke("hang")
    assert "timed out" in answer
    assert function.actions == ["acquire", "release"]
    assert function.status()["leases"] == []


def test_the_lease_of_another_driver_is_left_to_expire(worker: LambdaEnvironment, table: Table) -> None:
    """Promise 5 for `lease()`. Nothing here can tell whether MySQL still works for that driver's session."""
    _, answer = worker.invoke("lease", sleep=10)
    assert "timed out" in answer
    assert len(table.held()) == 1


def test_an_environment_without_a_lease_asks_for_nothing_at_its_end(
    environment: Callable[..., LambdaEnvironment],
) -> None:
    """Every environment of every function that carries the layer pays at its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        worker = environment(**environment_of(url, "leases").variables, GOVERNOR_TRANSPORT="direct")
        assert worker.invoke("nothing")[0] == 200
        assert worker.terminate() < 1.0
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_worker_that_is_not_set_up_runs_all_the_same(environment: Callable[..., LambdaEnvironment]) -> None:
    """An extension that fails at its start fails the whole function."""
    worker = environment()
    assert worker.invoke("nothing")[0] == 200


def test_the_notes_take_no_measurable_time(
    environment: Callable[..., LambdaEnvironment], table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """The extension taxes every invocation of the well-behaved."""
    worker = environment(**table.variables)
    with_notes = float(worker.invoke("measure", times=2_000)[1])
    assert SUFFIX in worker.invoke("noted")[1]
    with capsys.disabled():
        sys.stdout.write(f"notes of one acquire and release: {with_notes:.1f} us\n")
    assert with_notes < 60
