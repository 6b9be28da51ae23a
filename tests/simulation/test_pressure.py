"""Idle environments do not hoard: forty take turns on a budget of ten, in virtual time, with the real client."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from connection_governor.errors import NoConnectionsLeft
from tests.support.calm_sessions import CalmOpener
from tests.support.fleet import Fleet
from tests.support.hub import SECOND
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from connection_governor.client.governor import Governor

BUDGET = 10
ENVIRONMENTS = 40
KEEP_SECONDS = 60
DEADLINE_MS = 3_000
MEDIAN_US = 3_300  # of a request: 4 ms in the mean


class Crowd:
    """Environments of one fleet, and what they did.

    Attributes:
        busy_ms: connection-milliseconds spent in bodies, by the second in which they ended.
        served: bodies run, by environment.
        ended: invocations ended, refused ones too.
    """

    def __init__(self) -> None:
        self.fleet = Fleet(random.Random(0), budget=BUDGET, latency_us=MEDIAN_US, lag_us=0)
        self.hub, self.clock = self.fleet.hub, self.fleet.clock
        self.begun_ms = self.clock.now_ms()
        self.busy_ms: Counter[int] = Counter()
        self.served: Counter[int] = Counter()
        self.ended = 0

    def governor(self, number: int) -> Governor:
        """Return one environment's governor."""
        opener = CalmOpener(self.clock, takes_s=0.004)
        return self.fleet.governor(f"shop/{number}", opener=opener, keep_seconds=KEEP_SECONDS)

    def invoke(self, governor: Governor, number: int, hold_ms: float) -> None:
        """Run one invocation: wait for a connection, run a query, count it."""
        context = Invocation(DEADLINE_MS / 1_000, self.clock)
        try:
            with governor.connection(timeout=DEADLINE_MS / 2_000, context=context):
                self.clock.sleep(hold_ms / 1_000)
        except NoConnectionsLeft:
            return
        finally:
            self.ended += 1
        self.busy_ms[(self.clock.now_ms() - self.begun_ms) // 1_000] += round(hold_ms)
        self.served[number] += 1

    def utilization(self, from_s: int, until_s: int) -> float:
        """Return the share of the budget that executed queries in these seconds."""
        seconds = range(from_s, until_s)
        return sum(self.busy_ms[second] for second in seconds) / (len(seconds) * 1_000 * BUDGET)


def stay_busy(crowd: Crowd, number: int) -> None:
    """Invoke an environment again shortly after each answer."""
    draw, governor = random.Random(1_000 + number), crowd.governor(number)

    def live() -> None:
        while True:
            crowd.invoke(governor, number, hold_ms=draw.uniform(200, 600))
            crowd.clock.sleep(draw.uniform(0, 0.2))

    crowd.hub.start(live)


def take_turns(crowd: Crowd) -> None:
    """Invoke ten environments at once, then the next ten: the first of each round finds the whole budget free."""
    governors = [crowd.governor(number) for number in range(ENVIRONMENTS)]

    def live() -> None:
        for number in itertools.count(step=BUDGET):
            ended = crowd.ended + BUDGET
            for each in range(number, number + BUDGET):
                which = each % ENVIRONMENTS
                crowd.hub.start(partial(crowd.invoke, governors[which], which, hold_ms=1_000))
            while crowd.ended < ended:
                crowd.clock.sleep(0.01)

    crowd.hub.start(live)


def test_forty_busy_environments_share_ten_connections() -> None:
    """Idle environments sit on the budget, and others are refused while MySQL has nothing to do."""
    crowd = Crowd()
    for number in range(ENVIRONMENTS):
        stay_busy(crowd, number)
    crowd.hub.run_for(300 * SECOND)
    assert crowd.utilization(60, 300) >= 0.95
    assert min(crowd.served.values()) > 0.5 * max(crowd.served.values())
    assert len(crowd.served) == ENVIRONMENTS


def test_environments_that_take_turns_do_not_hoard_either() -> None:
    """The same, if each finds room at its turn and takes that for calm: ten kept, thirty waiting."""
    crowd = Crowd()
    take_turns(crowd)
    crowd.hub.run_for(1_800 * SECOND)
    assert crowd.utilization(60, 1_800) >= 0.95
    assert min(crowd.served.values()) > 0.9 * max(crowd.served.values())
    assert len(crowd.served) == ENVIRONMENTS


def test_pressure_hardly_reaches_an_environment_that_is_alone() -> None:
    """The warm path's whole advantage, if one environment took its own lease for a crowd."""
    crowd = Crowd()
    governor = crowd.governor(0)

    def live() -> None:
        for second in range(600):
            crowd.clock.sleep(max(0, crowd.begun_ms + second * 1_000 - crowd.clock.now_ms()) / 1_000)
            crowd.invoke(governor, 0, hold_ms=50)

    crowd.hub.start(live)
    crowd.hub.run_for(700 * SECOND)
    assert crowd.served == {0: 600}
    assert crowd.fleet.store.spent.total() <= 0.05 * 600
