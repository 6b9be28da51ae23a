"""One simulated world: a table, a MySQL, workers, operators, janitors and their faults. A function of its seed."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from connection_governor.core.opening import LONGEST_WAIT_MS, least_burst
from connection_governor.database.fence import Fence
from connection_governor.errors import GovernorUnavailable, NoConnectionsLeft
from tests.simulation import engine_branches
from tests.simulation.chaos import Chaos, Troubles
from tests.simulation.clocks import stream
from tests.simulation.dialing import set_virtual_time
from tests.simulation.environment import Environment
from tests.simulation.expressions import RequestTable
from tests.simulation.function import GovernorFunction
from tests.simulation.history import line_of, seconds
from tests.simulation.ledger import Ledger, Tally, Violation, end_ms
from tests.simulation.network import Network, Request, Weather
from tests.simulation.patience import Patience
from tests.simulation.server import Habits, Server
from tests.simulation.sessions import Sessions
from tests.simulation.table import MemoryTable, Table
from tests.simulation.workers import (
    ConnectingWorker,
    Hoarder,
    Holder,
    LambdaWorker,
    LongRunner,
    PatientWorker,
    RenewingWorker,
    Rusher,
    Vandal,
    Worker,
    look_after,
    operate,
)
from tests.support.hub import MS, SECOND, Hub, Process
from tests.support.versions import Versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.simulation.clocks import SkewedClock

DATABASE = "orders"
KEEP_SECONDS = 8
TABLES: dict[str, Callable[[Versions, Ledger], Table]] = {"memory": MemoryTable, "dynamodb": RequestTable}


@dataclass(frozen=True)
class WorldSettings:
    """Everything that a world is made of; `of_seed` draws it."""

    actors: tuple[str, ...]
    table: str = "memory"
    budget: int = 3
    shards: int = 1
    budgets: tuple[tuple[int, int], ...] = ((3, 1),)
    skew_ms: int = 1_000
    clock_bound_ms: int = 499
    honest_clocks: bool = True
    drift_ppm: int = 200
    lag_ms: int = 3_000
    founded_in_calm: bool = False
    fence: Fence = field(default_factory=Fence)
    weather: Weather = field(default_factory=Weather)
    troubles: Troubles = field(default_factory=Troubles)
    habits: Habits = field(default_factory=Habits)
    gap_s: float = 3.0
    deadline_s: float = 20.0
    spare_s: float = 20.0
    hold_s: float = 6.0
    long_statements: float = 0.02
    runaways: float = 0.0
    overstays: float = 0.0
    opens_anyway: float = 0.0
    forgets_renewals: float = 0.1
    budget_change_s: float = 60.0
    janitor_s: float = 60.0
    rates: tuple[int, ...] = ()
    bursts: tuple[int, ...] = (0,)
    rush_patience_s: tuple[float, ...] = (0, 0.5, 3, 12)

    def rate_of(self, random: Random) -> dict[str, int]:
        """Return an opening rate and a burst that an operator may choose; nothing where no rate is limited."""
        if not self.rates:
            return {}
        rate, most_shards = random.choice(self.rates), max(self.shards, *(shards for _, shards in self.budgets))
        burst = least_burst(rate, shards=most_shards, skew_ms=self.skew_ms) + random.choice(self.bursts)
        return {"opens_per_second": rate, "open_burst": burst}

    def choice_of_budget(self, random: Random) -> tuple[int, int]:
        """Return a budget that an operator may choose."""
        return random.choice(self.budgets)


class World:
    """Runs a world until so many steps were made, checking after each; then ends every actor and counts the slots.

    Args:
        seed: names the world.
        settings: what it is made of.
        record: keep the history.
    """

    def __init__(self, seed: str, settings: WorldSettings, *, record: bool = False) -> None:
        engine_branches.count_branches()
        self.seed, self.settings, self.database = seed, settings, DATABASE
        self.hub, self.tally = Hub(), Tally()
        set_virtual_time(self.hub)
        self.history: list[str] | None = [] if record else None
        self.environments: list[Environment] = []
        self._by_process: dict[str, Environment] = {}
        self._numbers = 0
        self._over = False
        honest = settings.honest_clocks
        self.ledger = Ledger(self.hub, self.tally, skew_ms=settings.skew_ms, honest_clocks=honest)
        self.patience = Patience(
            self.hub,
            self.ledger,
            skew_ms=settings.skew_ms,
            clock_bound_ms=settings.clock_bound_ms,
            lag_ms=settings.lag_ms,
        )
        self.sessions = Sessions(self.hub, self.ledger, self.tally, idle_ms=settings.fence.idle_ms)
        versions = Versions(self.hub, self._stream("lag"), settings.lag_ms * MS)
        self.table: Table = TABLES[settings.table](versions, self.ledger)
        self.network = Network(self.hub, self._stream("network"), settings.weather, self._deliver, self.tally)
        self.max_connections = 1_000
        self.server = Server(
            self.hub, self._stream("mysql"), self.tally, self.sessions, settings.habits, max_connections=1_000
        )
        if record:
            self.server.note = self.note
        self.chaos = Chaos(self, self._stream("chaos"), settings.troubles)
        self.function = GovernorFunction(self, self._stream("function"), replace(settings.weather, late=0.0))

    def run(self, steps: int) -> Tally:
        """Run until so many steps were made.

        Raises:
            Violation: an invariant does not hold.
        """
        engine_branches.MET.clear()
        if self.settings.founded_in_calm:
            self.network.set_weather(Weather())
        self._first_budget()
        self.network.set_weather(self.settings.weather)
        for number, kind in enumerate(self.settings.actors):
            self._spawn(kind, f"{kind}{number}")
        self.chaos.start()
        self.hub.run(stop=lambda: self.tally.steps >= steps)
        self._epilogue()
        self.tally.branches += engine_branches.MET
        return self.tally

    def violation(self, steps: int) -> Violation | None:
        """Run; return the invariant that broke, or None."""
        try:
            self.run(steps)
        except Violation as violation:
            return violation
        return None

    # What actors and chaos ask of it.

    def next_number(self) -> int:
        """Return a number for each environment."""
        self._numbers += 1
        return self._numbers

    def environment(self, name: str) -> Environment:
        """Return a new environment, which may be crashed and frozen."""
        environment = Environment(self, name)
        self.environments = [one for one in self.environments if one.process.alive]
        self.environments.append(environment)
        self._by_process[environment.process.name] = environment
        return environment

    def environment_of(self, process: Process) -> Environment | None:
        """Return the environment of a process."""
        return self._by_process.get(process.name)

    def kill(self, environment: Environment, how: str) -> None:
        """End an environment at once."""
        if environment.process.alive:
            self.tally.fault(how)
            self.note(how, environment.name)
            environment.process.end()

    def failed(self, process: Process, failure: Exception) -> None:
        """Note an unexpected exception of production code."""
        if isinstance(failure, Violation):
            raise failure
        raise Violation("surprise", f"{process.name}: {failure!r}") from failure

    def breaks(self, invariant: str, what: str) -> None:
        """Note a broken invariant that an actor saw and that depends on clocks."""
        self.ledger.breaks(invariant, what)

    def note(self, *words: object) -> None:
        """Write a line of the history."""
        if self.history is not None:
            self.history.append(f"{seconds(self.hub.now_us):>9} {' '.join(map(str, words))}")

    def digest(self) -> str:
        """Return a hash of the whole history."""
        return hashlib.sha256("\n".join(self.history or ()).encode()).hexdigest()

    # How it goes.

    def _stream(self, name: str) -> Random:
        return stream(f"{self.seed}/{name}")

    def _deliver(self, request: Request) -> object:
        self.tally.steps += 1
        answer = self.table.deliver(request)
        if self.history is not None:
            self.note(line_of(request, answer))
        return answer

    def _first_budget(self) -> None:
        """Create the database by two operators at the same moment, each until it has succeeded."""
        settings, done = self.settings, list[bool]()
        rate = settings.rate_of(self._stream("first rate"))

        def found(founder: Environment) -> None:
            with suppress(GovernorUnavailable):
                founder.operations().set_budget(
                    DATABASE, settings.budget, shards=settings.shards, skew_ms=settings.skew_ms, **rate
                )
            done.append(True)

        for _ in range(2):
            founder = Environment(self, "founder")
            founder.start(partial(found, founder))
        self.hub.run(stop=lambda: len(done) == 2)

    def _spawn(self, kind: str, name: str) -> None:
        """Start an actor's environment; when it ends, another takes its place after a while."""
        if self._over:
            return
        environment = self.environment(name)
        environment.process.on_end.append(
            lambda: self._respawn(int(environment.random.random() * 5 * SECOND), kind, name)
        )
        environment.start(ACTORS[kind](self, environment))

    def _respawn(self, after_us: int, kind: str, name: str) -> None:
        self.hub.after(after_us, self._spawn, kind, name)

    def _epilogue(self) -> None:
        """Kill every actor at once; check that the whole budget can be granted at the last expiry plus the allowance.

        That moment is told by the clock of the newcomer who asks. A request that is under way until then, or arrives at
        that very moment at last, may store a lease with a later end, and thereby put it off.
        """
        self._over = True
        self.chaos.end()
        self.network.set_weather(Weather())
        self._kill_everybody()
        newcomer = Environment(self, "newcomer")
        self._until_all_are_over(newcomer.clock)
        self.function.lose()
        self._kill_everybody()  # whom late invocations have started
        self.network.hasten()
        self._until_all_are_over(newcomer.clock)
        self.hub.run(until_us=self.ledger.changed_us + self.settings.lag_ms * MS)
        self._lend_all(newcomer)

    def _kill_everybody(self) -> None:
        self.note("every actor is killed")
        for environment in self.environments:
            environment.process.end()

    def _until_all_are_over(self, clock: SkewedClock) -> None:
        """Wait until this clock shows the first millisecond after the last lease's expiry plus the allowance."""
        while (left_ms := self._last_end_ms() + self.settings.skew_ms + 1 - clock.now_ms()) > 0:
            self.hub.run(until_us=self.hub.now_us + left_ms * MS)

    def _last_end_ms(self) -> int:
        ends = (end_ms(record) for shard in self.ledger.shards.values() for record in shard.leases.values())
        return max(ends, default=0)

    def _lend_all(self, newcomer: Environment) -> None:
        """Acquire every connection of the budget as a newcomer, without a janitor, each at its only try.

        Where a budget change was left half done, one refusal shows it, and finishes it.
        """
        budget = self.ledger.settings.allowed if self.ledger.settings else 0
        may_be_refused = not self.ledger.is_settled
        lent: list[bool] = []
        apart_ms = 2 * self.settings.clock_bound_ms  # a token may have been taken by a clock that is so far ahead
        longest_ms = LONGEST_WAIT_MS + 1_000 * (budget + 10) + apart_ms  # at one a second
        tokens_by_us = self.hub.now_us + 2 * longest_ms * MS  # a caller may be told up to twice its wait
        self.note(newcomer.name, "asks for all", budget, "of a plan half done" if may_be_refused else "")

        def ask_for_all() -> None:
            nonlocal may_be_refused
            while len(lent) < budget:
                try:
                    governor.acquire(lease_ms=600_000)
                    lent.append(True)
                except NoConnectionsLeft as refusal:
                    if refusal.too_fast and self.hub.now_us < tokens_by_us:
                        newcomer.process.sleep(refusal.retry_after_ms * MS)
                        continue
                    if not may_be_refused:
                        break
                    may_be_refused = False
                    newcomer.process.sleep((refusal.retry_after_ms + self.settings.lag_ms) * MS)
            done.append(True)

        done: list[bool] = []
        governor = newcomer.governor()
        newcomer.start(ask_for_all)
        self.hub.run(stop=lambda: bool(done))
        if len(lent) != budget:
            raise Violation("lost slot", f"{len(lent)} of {budget} could be lent at once when every lease was over")


def _working(worker: Callable[[World, Environment], Worker]) -> Callable[[World, Environment], Callable[[], None]]:
    return lambda world, environment: worker(world, environment).run


ACTORS: dict[str, Callable[[World, Environment], Callable[[], None]]] = {
    "function": _working(LambdaWorker),
    "remote": _working(lambda world, environment: LambdaWorker(world, environment, remote=True)),
    "connecting": _working(ConnectingWorker),
    "keeping": _working(lambda world, environment: ConnectingWorker(world, environment, keep_seconds=KEEP_SECONDS)),
    "longkeeping": _working(lambda world, environment: LongRunner(world, environment, keep_seconds=KEEP_SECONDS)),
    "hoarder": _working(Hoarder),
    "rusher": _working(Rusher),
    "holder": _working(Holder),
    "renewing": _working(RenewingWorker),
    "longrunner": _working(LongRunner),
    "patient": _working(PatientWorker),
    "vandal": _working(Vandal),
    "operator": lambda world, environment: lambda: operate(world, environment),
    "janitor": lambda world, environment: lambda: look_after(world, environment),
}
