"""Real faults under real worker processes, on DynamoDB Local and MariaDB, with no janitor: the promises hold.

FAULT_ROUNDS (default 2) sets how often each kind of kill is made. `build/faults.md` has the figures of the last run.
The same faults under the deployed functions: test_deployed_faults.py.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from harness.demo.observer import now_ms
from harness.stack.local_aws import local_aws
from harness.stack.mysql import PrivateMySQL
from tests.stack.crew import Crew, crew
from tests.stack.drills import BUDGET, CREDENTIALS, Ground, ground_on, judged, variables_of
from tests.stack.orders import Order
from tests.support.database import SESSIONS_OF
from tests.support.fault_proxy import HEALTHY, REFUSED, SILENT, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("results_of_drills")]

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))
WORKERS = 9
MOST = 14  # connections that MariaDB admits
LOWERED = 10  # the least that it takes
OTHERS = 6  # that fill it up, so that the lowered limit is below the budget
STEPS = {"opening": 0.006, "holding": 0.1, "closing": 0.006}  # how many seconds after a step begins it is killed
DELAYED = Fault(request_s=(0.0, 3.0))  # the client waits for two
DROPPED = Fault(drop=0.4)


@pytest.fixture(scope="module")
def database() -> Iterator[PrivateMySQL]:
    """Yield a MariaDB for these drills only: it will be killed."""
    with PrivateMySQL(max_connections=MOST) as server:
        yield server


@pytest.fixture(scope="module")
def variables(database: PrivateMySQL) -> Iterator[dict[str, str]]:
    with local_aws() as aws:
        yield variables_of(database, aws)


@pytest.fixture
def ground(dynamodb_local: str, database: PrivateMySQL, variables: dict[str, str]) -> Iterator[Ground]:
    with ground_on(dynamodb_local, database, variables) as ground:
        yield ground


@pytest.fixture
def workers() -> Iterator[Crew]:
    with crew() as people:
        yield people


def start(workers: Crew, ground: Ground, count: int = WORKERS, **order: object) -> None:
    """Start more workers than the budget has connections."""
    workers.start(Order(count, ground.variables, **order))  # type: ignore[arg-type] # Order's own fields


def test_workers_killed_at_opening_holding_and_closing_cost_nothing_but_time(ground: Ground, workers: Crew) -> None:
    """A crashed environment takes its connection with it for good, or a worker is granted one that MySQL refuses."""
    start(workers, ground)
    draw, died, over_ms = random.Random(11), Counter[str](), 0
    while (step := min(STEPS, key=lambda step: died[step])) and died[step] < ROUNDS:
        victim = workers.next_to(step)
        time.sleep(draw.uniform(0, STEPS[step]))
        over_ms = workers.kill(victim)
        died[workers.last(victim).step] += 1
        start(workers, ground, 1)
    what_happened = "killed: " + _in_words(died)
    judged(ground, workers, "Workers killed one by one (SIGKILL)", over_ms, what_happened).insist()


@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_every_holder_killed_at_once_and_the_whole_budget_is_back_in_time(ground: Ground, workers: Crew) -> None:
    """After a mass crash the database stays full of the dead: an outage that no restart of the workers ends."""
    for number in range(1, ROUNDS + 1):
        start(workers, ground, hold_s=(9.0, 9.0))
        workers.wait(lambda: len(workers.holding()) == BUDGET)
        over_ms = workers.kill(*workers.alive())
        dead = len(workers.holding())
        assert dead, "a worker died while holding"
        verdict = judged(
            ground, workers, f"Every holder killed at once, {number} of {ROUNDS}", over_ms, f"{dead} holders died"
        )
        verdict.insist()
        workers.forget()


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("DynamoDB cut off: refused, then silent", [(REFUSED, 1.0), (SILENT, 2.5)]),
        ("DynamoDB's requests 0 to 3 s late", [(DELAYED, 3.0)]),
        ("DynamoDB's answers dropped after the write (40%)", [(DROPPED, 3.0)]),
    ],
    ids=["cut-off", "delayed", "answers-dropped"],
)
def test_trouble_with_dynamodb_neither_over_grants_nor_loses_slots(
    ground: Ground, workers: Crew, name: str, faults: list[tuple[Fault, float]]
) -> None:
    """A request of unknown outcome is where a counter goes wrong: granted twice, or never released."""
    start(workers, ground)
    workers.wait(lambda: workers.count("closed") > BUDGET)
    for fault, seconds in faults:
        ground.proxy.inject(fault)
        time.sleep(seconds)
    ground.proxy.inject(HEALTHY)
    what_happened = {kind: count for kind, count in ground.proxy.injected.items() if count}
    assert what_happened, "the fault hit no request"
    judged(ground, workers, name, now_ms(), _in_words(what_happened | workers.errors())).insist()


def test_a_restart_and_a_crash_of_mysql_cost_no_slot(ground: Ground, workers: Crew) -> None:
    """After a failover, workers that could not open, or whose sessions were lost, would keep their leases."""
    start(workers, ground)
    workers.wait(lambda: workers.count("closed") > BUDGET)
    ground.database.restart()
    workers.wait(lambda: workers.errors() != {})
    closed = workers.count("closed")
    workers.wait(lambda: workers.count("closed") > closed + BUDGET)
    ground.database.kill()
    ground.database.start()
    over_ms = now_ms()
    judged(ground, workers, "MariaDB restarted, then killed and started", over_ms, _in_words(workers.errors())).insist()


def test_sessions_killed_under_the_workers_cost_no_slot(ground: Ground, workers: Crew) -> None:
    """An operator's KILL, or a proxy's, ends sessions: their leases must come back, and not while MySQL counts them."""
    start(workers, ground)
    killed, ends_at = 0, time.monotonic() + 2.0
    with closing(ground.database.root()) as root, root.cursor() as cursor:
        while time.monotonic() < ends_at or not killed:
            cursor.execute(SESSIONS_OF, (CREDENTIALS.username,))
            for (session,) in cursor.fetchall():
                with suppress(err.MySQLError):  # it has ended meanwhile
                    killed += cursor.execute("KILL CONNECTION %s", (session,)) == 0
            time.sleep(0.05)
    what_happened = _in_words({"sessions killed": killed} | workers.errors())
    judged(ground, workers, "Sessions killed under the workers", now_ms(), what_happened).insist()


def test_a_server_that_admits_fewer_than_the_budget_for_a_while_costs_no_slot(ground: Ground, workers: Crew) -> None:
    """The operator lowers max_connections, or others fill the server: MySQL's refusals must not keep leases."""
    with closing(ground.database.root()) as root, root.cursor() as cursor:
        others = [ground.database.root() for _ in range(OTHERS)]
        cursor.execute(f"SET GLOBAL max_connections = {LOWERED}")
        start(workers, ground)
        workers.wait(lambda: len(workers.refused_by_mysql()) > BUDGET)
        cursor.execute(f"SET GLOBAL max_connections = {MOST}")
        over_ms = now_ms()
        for other in others:
            other.close()
    verdict = judged(ground, workers, "max_connections below the budget for a while", over_ms, "")
    while_lowered = [refused for refused in verdict.refused_by_mysql if refused.opening_ms <= over_ms]
    assert {refused.number for refused in while_lowered} == {1040}, "the user's own limit, the budget, was never hit"
    verdict.refused_by_mysql = [refused for refused in verdict.refused_by_mysql if refused not in while_lowered]
    verdict.what_happened = f"{len(while_lowered)} x 1040 while lowered"
    verdict.insist()


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in counts.items())
