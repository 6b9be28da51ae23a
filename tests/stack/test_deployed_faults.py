"""The same faults under the deployed functions: Lambda's processes, the governor function, the template's MySQL user.

test_faults.py has them in greater number, under worker processes that are cheaper to start. The janitor is off.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from pymysql import err

from harness.demo.background import in_background
from harness.demo.drill import kill_holders
from harness.demo.observer import now_ms
from harness.demo.recording import Hold
from harness.demo.referee import WORKER_USER, referee_of
from tests.stack.deployed import GOVERNOR, WORKER, Deployed, changed_function, deployed_ground, processes_of
from tests.support.database import SESSIONS_OF
from tests.support.fault_proxy import ANSWERS_WITHHELD, HEALTHY, REFUSED, WRITES_WITHHELD, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.local_stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("results_of_drills")]

VICTIMS = 3
LOWERED = 10  # the least that MariaDB takes for max_connections
OTHERS = 7  # that fill it up, so that the lowered limit is below the budget
PATIENT_WORKER_S = 15  # its time-out where a governor function starts cold within it


@pytest.fixture(scope="module")
def ground(stack: Stack) -> Iterator[Deployed]:
    with deployed_ground(stack) as ground:
        yield ground


def test_deployed_workers_killed_while_they_hold_cost_nothing_but_time(ground: Deployed) -> None:
    """On Lambda, an environment that crashes would take its connection with it until an operator cleans up."""
    with ground.load() as load, closing(referee_of(ground.stack.database)) as referee:
        crash = kill_holders(referee, ground.stack.aws.group, VICTIMS, seed=3)
        fleet = load.end()
    assert fleet.load.counts["crashed"] == len(crash.pids) > 0
    what_happened = fleet.in_words(f"{len(crash.pids)} workers killed")
    ground.judged("Deployed: workers killed", what_happened, crash.at_ms, fleet.load.holds, fleet.refused).insist()


def test_trouble_with_dynamodb_under_the_deployed_workers(ground: Deployed) -> None:
    """A deployed worker's requests are cut off, late, or their answers lost: it must not be granted twice, nor leak."""
    before = ground.proxy.injected.copy()
    with ground.load() as load:
        for fault, seconds in ((REFUSED, 0.7), (Fault(request_s=(0.0, 3.0)), 1.5), (Fault(drop=0.4), 1.5)):
            ground.proxy.inject(fault)
            time.sleep(seconds)
        ground.proxy.inject(HEALTHY)
        over_ms, fleet = now_ms(), load.end()
    what_happened = ground.proxy.injected - before
    assert set(what_happened) == {"refused", "late request", "dropped answer"}
    words = fleet.in_words(", ".join(f"{count} x {kind}" for kind, count in what_happened.items()))
    name = "Deployed: DynamoDB cut off, late, answers dropped"
    ground.judged(name, words, over_ms, fleet.load.holds, fleet.refused).insist()


def test_trouble_with_mysql_under_the_deployed_workers(ground: Deployed) -> None:
    """The server admits too few, sessions are killed, it is restarted: the leases of all that must come back."""
    database = ground.stack.database
    with ground.load() as load:
        with closing(database.root()) as root, root.cursor() as cursor:
            others = [database.root() for _ in range(OTHERS)]
            cursor.execute(f"SET GLOBAL max_connections = {LOWERED}")
            time.sleep(1)
            for other in others:
                other.close()
            # Last: a session that is killed in a transaction may roll back, so its lease is left to expire.
            for _ in range(5):
                cursor.execute(SESSIONS_OF, (WORKER_USER,))
                for (session,) in cursor.fetchall():
                    with suppress(err.MySQLError):  # it has ended meanwhile
                        cursor.execute("KILL CONNECTION %s", (session,))
                time.sleep(0.1)
        database.restart()
        over_ms, fleet = now_ms(), load.end()
    assert {refused.number for refused in fleet.refused} == {1040}, "the user's own limit, the budget, was never hit"
    late = [refused for refused in fleet.refused if refused.opening_ms > over_ms]
    what_happened = fleet.in_words(f"max_connections lowered, sessions killed, restarted: {len(fleet.refused)} x 1040")
    ground.judged("Deployed: trouble with MariaDB", what_happened, over_ms, fleet.load.holds, late).insist()


@pytest.mark.parametrize("moment", ["before-the-write", "after-the-write", "at-the-release"])
def test_the_governor_function_killed_in_mid_call_neither_lends_twice_nor_loses_a_slot(
    ground: Deployed, moment: str
) -> None:
    """With the lambda transport another process dies in the middle of our write: its outcome is unknown."""
    name = ground.stack.deployment.outputs[GOVERNOR]
    by_function = {"GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": name}
    with changed_function(ground.stack, WORKER, by_function, Timeout=PATIENT_WORKER_S):
        _invoke(ground)  # a warm governor has read the settings: what is withheld is the write
        early = moment == "before-the-write"
        withheld, kind = (WRITES_WITHHELD, "late request") if early else (ANSWERS_WITHHELD, "late answer")
        seen = ground.proxy.injected[kind]
        if moment != "at-the-release":
            ground.proxy.inject(withheld)
        task = in_background(lambda: _invoke(ground, hold_ms=1_000))
        if moment == "at-the-release":
            ground.wait_for_sessions(1)
            ground.proxy.inject(withheld)
        ground.proxy.wait_for(kind, seen + 1)
        over_ms = _kill_governor(ground)
        answer = task.result()
    assert answer["outcome"] == "granted"
    if moment == "after-the-write":
        assert answer["fence"] is None, "the retry recognised the lease that the killed function had taken for it"
    hold = Hold(answer["held_from_ms"], answer["held_to_ms"], answer["expires_at_ms"], crashed=False)
    what_happened = f"killed {moment.replace('-', ' ')}"
    verdict = ground.judged("Deployed: governor function killed in mid-call", what_happened, over_ms, [hold])
    verdict.insist()


def _invoke(ground: Deployed, hold_ms: int = 0) -> dict[str, Any]:
    event = {"hold_ms": hold_ms, "timeout_ms": 20_000, "on_refusal": "return"}
    answer: dict[str, Any] = ground.stack.invoke("WorkerFunctionName", event)
    return answer


def _kill_governor(ground: Deployed) -> int:
    victims = processes_of(ground.stack, GOVERNOR)
    assert victims
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ground.proxy.inject(HEALTHY)
    return now_ms()
