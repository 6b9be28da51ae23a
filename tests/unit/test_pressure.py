"""Idle environments do not hoard: forty take turns on a budget of ten, in virtual time, with the real client."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from greenlet import getcurrent, greenlet

from connection_governor.client.governor import Governor
from connection_governor.client.ports import Outside
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.errors import NoConnectionsLeft
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from tests.support.calm_sessions import CalmOpener
from tests.support.virtual import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.store import LeaseStore

BUDGET = 10
ENVIRONMENTS = 40
KEEP_SECONDS = 60
DEADLINE_MS = 3_000


class Turns:
    """Runs environments side by side in virtual time: each goes on when what it sleeps for is over."""

    def __init__(self) -> None:
        self.now = float(NOW_MS)
        self._queue: list[tuple[float, int, greenlet]] = []
        self._count = itertools.count()
        self._main = getcurrent()

    def start(self, body: Callable[[], None]) -> None:
        """Begin at once."""
        self._wake(self.now, greenlet(body, parent=self._main))

    def run(self, until_ms: float) -> None:
        """Let time pass."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now, _, process = heapq.heappop(self._queue)
            process.switch()

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return int(self.now)

    def monotonic_ms(self) -> int:
        """See `Clock.monotonic_ms`."""
        return int(self.now) - NOW_MS

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        process = getcurrent()
        self._wake(self.now + seconds * 1_000, process)
        self._main.switch()

    def _wake(self, at_ms: float, process: greenlet) -> None:
        heapq.heappush(self._queue, (at_ms, next(self._count), process))


@dataclass
class Chance:
    """Seeded randomness."""

    draw: random.Random
    prefix: str
    made: int = 0

    def lease_id(self) -> str:
        """See `Entropy.lease_id`."""
        self.made += 1
        return f"{self.prefix}{self.made:06}"

    def fraction(self) -> float:
        """See `Entropy.fraction`."""
        return self.draw.random()


@dataclass
class DistantStore:
    """The store, a few milliseconds away; counts requests."""

    inner: MemoryStore
    turns: Turns
    requests: int = 0

    def within(self, _deadline: Deadline | None) -> LeaseStore:
        """See `LeaseStore.within`: this one always answers."""
        return self

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any verb
            self.requests += 1
            self.turns.sleep(0.002)
            answer = getattr(self.inner, verb)(*arguments, **options)
            self.turns.sleep(0.002)
            return answer

        return call


@dataclass
class Context:
    """As the Lambda context."""

    turns: Turns
    end_ms: float

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the deadline."""
        return int(self.end_ms - self.turns.now)


@dataclass
class Crowd:
    """What the environments did.

    Attributes:
        busy_ms: connection-milliseconds spent in bodies, by the second in which they ended.
        served: bodies run, by environment.
        ended: invocations ended, refused ones too.
    """

    turns: Turns = field(default_factory=Turns)
    inner: MemoryStore = field(default_factory=MemoryStore)
    busy_ms: dict[int, float] = field(default_factory=dict)
    served: dict[int, int] = field(default_factory=dict)
    ended: int = 0

    def __post_init__(self) -> None:
        self.store = DistantStore(self.inner, self.turns)
        Operations(self.inner, self.turns, Chance(random.Random(0), "op")).set_budget("orders", BUDGET)

    def governor(self, number: int) -> Governor:
        """Return one environment's."""
        turns, chance = self.turns, Chance(random.Random(number), f"e{number:02}")
        store: Any = self.store
        quiet = Reporter(write=lambda _line: None)
        service = Service(Engine(store, turns, chance), Operations(store, turns, chance), quiet, turns)
        opener = CalmOpener(turns, takes_s=0.004)
        outside = Outside(turns, chance, quiet, opener=lambda: cast("Any", opener))
        return Governor(service, outside, holder=f"shop/{number}", database="orders", keep_seconds=KEEP_SECONDS)

    def invoke(self, governor: Governor, number: int, hold_ms: float) -> None:
        """Run one invocation: wait for a connection, run a query, count it."""
        context = Context(self.turns, self.turns.now + DEADLINE_MS)
        try:
            with governor.connection(timeout=DEADLINE_MS / 2_000, context=context):
                self.turns.sleep(hold_ms / 1_000)
        except NoConnectionsLeft:
            return
        finally:
            self.ended += 1
        second = int((self.turns.now - NOW_MS) / 1_000)
        self.busy_ms[second] = self.busy_ms.get(second, 0.0) + hold_ms
        self.served[number] = self.served.get(number, 0) + 1

    def utilization(self, from_s: int, until_s: int) -> float:
        """Return the share of the budget that executed queries in these seconds."""
        seconds = range(from_s, until_s)
        return sum(self.busy_ms.get(second, 0.0) for second in seconds) / (len(seconds) * 1_000 * BUDGET)


def stay_busy(crowd: Crowd, number: int) -> None:
    """Invoke an environment again shortly after each answer."""
    draw, governor = random.Random(1_000 + number), crowd.governor(number)

    def live() -> None:
        while True:
            crowd.invoke(governor, number, hold_ms=draw.uniform(200, 600))
            crowd.turns.sleep(draw.uniform(0, 0.2))

    crowd.turns.start(live)


def take_turns(crowd: Crowd) -> None:
    """Invoke ten environments at once, then the next ten: the first of each round finds the whole budget free."""
    governors = [crowd.governor(number) for number in range(ENVIRONMENTS)]

    def live() -> None:
        for number in itertools.count(step=BUDGET):
            ended = crowd.ended + BUDGET
            for each in range(number, number + BUDGET):
                which = each % ENVIRONMENTS
                crowd.turns.start(partial(crowd.invoke, governors[which], which, hold_ms=1_000))
            while crowd.ended < ended:
                crowd.turns.sleep(0.01)

    crowd.turns.start(live)


def test_forty_busy_environments_share_ten_connections() -> None:
    """Breaks: idle environments sit on the budget, and others are refused while MySQL has nothing to do."""
    crowd = Crowd()
    for number in range(ENVIRONMENTS):
        stay_busy(crowd, number)
    crowd.turns.run(NOW_MS + 300_000)
    assert crowd.utilization(60, 300) >= 0.95
    assert min(crowd.served.values()) > 0.5 * max(crowd.served.values())
    assert len(crowd.served) == ENVIRONMENTS


def test_environments_that_take_turns_do_not_hoard_either() -> None:
    """Breaks: as above, where each finds room at its turn and so takes its time for calm: ten kept, thirty waiting."""
    crowd = Crowd()
    take_turns(crowd)
    crowd.turns.run(NOW_MS + 1_800_000)
    assert crowd.utilization(60, 1_800) >= 0.95
    assert min(crowd.served.values()) > 0.9 * max(crowd.served.values())
    assert len(crowd.served) == ENVIRONMENTS


def test_pressure_hardly_reaches_an_environment_that_is_alone() -> None:
    """Breaks: the warm path's whole advantage, if one environment took its own lease for a crowd."""
    crowd = Crowd()
    governor = crowd.governor(0)

    def live() -> None:
        for second in range(600):
            crowd.turns.sleep(max(0.0, NOW_MS / 1_000 + second - crowd.turns.now / 1_000))
            crowd.invoke(governor, 0, hold_ms=50)

    crowd.turns.start(live)
    crowd.turns.run(NOW_MS + 700_000)
    assert crowd.served == {0: 600}
    assert crowd.store.requests <= 0.05 * 600
