"""Managed Instances: sixteen processes of one environment share `/tmp` and the extension, and nothing of a lease."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.lease import ShardKey
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.processes import Server, kill, start
from harness.stack.tools import tool
from tests.integration.emulator.managed_instance import PROCESSES, ManagedInstance
from tests.support.lambda_emulator import NAMESPACES, WORLD, inside, variables_of
from tests.support.worlds import endpoint_of, environment_of, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from harness.stack.mysql_family import MySQLFamilyServer

BUDGET = 18
LAMBDA_GIVES_S = 2.0  # to the extension, at the end
USER = "crashing"  # who the function signs in as
_RUN = (  # pid 1 must outlive the rest
    f"{WORLD} (/opt/extensions/connection-governor & {{python}} -m awslambdaric app.handler & wait)"
)


class Leases:
    """The leases on DynamoDB Local, and MySQL's sessions, looked at together."""

    def __init__(self, store: DynamoDBStore, root: Connection[Cursor]) -> None:
        self.store = store
        self._root = root

    def held(self) -> set[str]:
        """Return the ids of the stored leases."""
        shard = self.store.read([ShardKey("orders", 0)], consistent=True)[0]
        assert shard is not None
        return set(shard.leases)

    def of_sessions(self) -> set[str]:
        """Return the leases that MySQL's sessions were opened under."""
        with self._root.cursor() as cursor:
            cursor.execute(
                "SELECT a.attr_value FROM performance_schema.session_connect_attrs a"
                " JOIN performance_schema.threads p ON p.processlist_id = a.processlist_id"
                " WHERE a.attr_name = 'program_name' AND p.processlist_user = %s",
                (USER,),
            )
            return {str(name).split(":")[1] for (name,) in cursor.fetchall()}

    def assert_no_session_without_its_lease(self) -> None:
        """Whatever was open before a look at the leases and after it, has one."""
        before, held, after = self.of_sessions(), self.held(), self.of_sessions()
        assert before & after <= held


@pytest.fixture
def leases(dynamodb_local: str, database_server: MySQLFamilyServer) -> Iterator[Leases]:
    """Yield a budget for a few more sessions than there are processes."""
    database_server.create_user(USER, "pw", max_user_connections=BUDGET)
    with closing(endpoint_of(dynamodb_local)) as endpoint, closing(database_server.root()) as root:
        store = DynamoDBStore(DynamoDBCaller(endpoint), new_table(endpoint))
        Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
        yield Leases(store, root)


@pytest.fixture
def lambda_api() -> Iterator[ManagedInstance]:
    """Lambda's side."""
    with ManagedInstance() as lambda_api:
        yield lambda_api


@pytest.fixture
def environment(
    rie: str,
    stage: Path,
    lambda_api: ManagedInstance,
    leases: Leases,
    dynamodb_local: str,
    database_server: MySQLFamilyServer,
    tmp_path: Path,
) -> Iterator[Server]:
    """Yield one environment with its sixteen processes, ready."""
    (stage / "ca.pem").write_bytes(database_server.ca_path.read_bytes())
    variables = variables_of(
        {
            **environment_of(dynamodb_local, leases.store._table).variables,
            "AWS_LAMBDA_RUNTIME_API": lambda_api.address,
            "AWS_LAMBDA_MAX_CONCURRENCY": str(PROCESSES),
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/21/[1]0123456789abcdef",
            "GOVERNOR_TRANSPORT": "direct",
            "PORT": str(database_server.port),
        }
    )
    world = _RUN.format(stage=stage, python=inside(tool("rie", "python")))
    server = start("the environment", [*NAMESPACES, "sh", "-c", world], log=tmp_path / "environment.log", env=variables)
    try:
        lambda_api.wait_for_processes()
        yield server
    finally:
        kill(server)


def runtime(server: Server) -> list[int]:
    """Return the runtime and its processes, as the outside numbers them."""
    found, unseen = [], [server.pid]
    while unseen:
        pid = unseen.pop()
        with suppress(FileNotFoundError):  # it has just ended
            for task in Path(f"/proc/{pid}/task").iterdir():
                unseen += map(int, (task / "children").read_text().split())
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"awslambdaric"]:
                found.append(pid)
    return found


def shut_down(server: Server, lambda_api: ManagedInstance) -> float:
    """End the environment as Lambda does: the runtime first, then the extension hears of it; how long that took."""
    for pid in runtime(server):
        os.kill(pid, signal.SIGKILL)
    since = time.monotonic()
    lambda_api.shut_down.set()
    server.process.wait(timeout=10)
    return time.monotonic() - since


def results(answers: list[Future[Any]]) -> list[Any]:
    """Return what the processes answered."""
    return [answer.result(timeout=30) for answer in answers]


def test_sixteen_processes_share_nothing_of_their_leases(
    environment: Server, lambda_api: ManagedInstance, leases: Leases
) -> None:
    """One process's lease is released, or its notes are overwritten, by another of the same environment."""
    answers = [lambda_api.invoke("keep", sleep=3.0, keep=60, timeout_ms=20_000) for _ in range(PROCESSES)]
    ends_at = time.monotonic() + 20
    while len(leases.of_sessions()) < PROCESSES and time.monotonic() < ends_at:
        leases.assert_no_session_without_its_lease()
    open_now = leases.of_sessions()
    assert open_now == leases.held()
    held = results(answers)
    assert {one["lease"] for one in held} == open_now
    for what in ("pid", "holder", "lease"):
        assert len({one[what] for one in held}) == PROCESSES
    leases.assert_no_session_without_its_lease()
    noted = results([lambda_api.invoke("noted")])[0]
    assert len(noted) == PROCESSES


def test_when_processes_are_killed_the_others_go_on_and_shutdown_releases_the_rest(
    environment: Server, lambda_api: ManagedInstance, leases: Leases
) -> None:
    """A crashed process takes its siblings' leases along, or its own is lost, or released while MySQL works."""
    draw, crashed, processes = random.Random(7), 4, len(runtime(environment))

    def work(times: int) -> None:
        answers = []
        for _ in range(times):
            act, sleep = draw.choice(["use", "keep"]), draw.uniform(0, 0.05)
            answers.append(lambda_api.invoke(act, keep=60, sleep=sleep, timeout_ms=20_000))
            leases.assert_no_session_without_its_lease()
        results(answers)

    work(100)
    for _ in range(crashed):
        lambda_api.invoke("kill in a statement")
    while len(runtime(environment)) > processes - crashed:
        time.sleep(0.01)
    assert len(leases.of_sessions() & leases.held()) >= crashed  # their statements run on, under their leases
    work(20)
    assert shut_down(environment, lambda_api) < LAMBDA_GIVES_S
    running_on = leases.of_sessions()
    assert len(running_on) == crashed
    assert leases.held() == running_on


def test_an_invocation_that_outlives_its_deadline_starts_no_statement(
    environment: Server, lambda_api: ManagedInstance
) -> None:
    """Nothing stops a timed-out invocation there, and it uses its connection past its lease's end."""
    governed, other = results(
        [lambda_api.invoke(act, timeout_ms=700) for act in ("overrun", "overrun with another driver")]
    )
    assert governed == "LeaseLost"
    assert other == "yes"  # why `lease()` with another driver does not hold promise 5 there
