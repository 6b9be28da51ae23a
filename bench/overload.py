"""More demand than budget, simulated with the production code: use of the budget, its cost, and waiting times."""

from __future__ import annotations

import statistics
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from bench.measure import FULL, Effort, Spread
from bench.results import Row
from connection_governor.errors import NoConnectionsLeft
from tests.support.fleet import Fleet
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connection_governor.client.governor import Governor

NAME = "overload"
HOLD_US = 100 * MS
LEAST_LENT = 0.97
MOST_UNITS = 4.0
SETTLING_US = 8 * SECOND
SEEDS = (1, 2, 3)


@dataclass
class Tally:
    """What one run saw, after it has settled.

    Attributes:
        held_us: virtual time during which connections were in use, added up.
        waits_ms: the waits of the granted callers.
        by_environment: grants of each.
    """

    granted: int = 0
    refused: int = 0
    held_us: int = 0
    waits_ms: list[float] = field(default_factory=list)
    by_environment: Counter[int] = field(default_factory=Counter)


class Overload:
    """Invocations arrive at random, `demand` times as fast as the budget can serve them; idle environments take them.

    Args:
        budget, shards: of the database.
        demand: arrivals in units of what the budget can serve.
        timeout_s: how long each invocation waits.
        seed: of everything random.
    """

    def __init__(self, budget: int, shards: int, *, demand: float = 1.3, timeout_s: float = 2.0, seed: int = 1) -> None:
        self._random = Random(seed)  # noqa: S311  # a simulation
        self.fleet = Fleet(self._random, budget=budget, shards=shards)
        self._budget = budget
        self._between_us = HOLD_US / (budget * demand)
        self._timeout_s = timeout_s
        self._idle: list[tuple[int, Governor]] = []
        self._environments = 0
        self.tally = Tally()
        self.spent: float = 0

    def run(self, measured_us: int) -> Tally:
        """Let it settle, then measure."""
        hub = self.fleet.hub
        self._arrive()
        hub.run_for(SETTLING_US)
        self.tally, spent = Tally(), self.fleet.store.units()
        before = self._lent_us()
        self._measured_us = measured_us
        hub.run_for(measured_us)
        self._lent = self._lent_us() - before
        self.spent = self.fleet.store.units() - spent
        return self.tally

    def lent(self) -> float:
        """Return the share of the budget that was on loan, as the table has it."""
        return self._lent / (self._budget * self._measured_us)

    def used(self) -> float:
        """Return the share of the budget that holders had in their hands: less by a request's time for each grant."""
        return self.tally.held_us / (self._budget * self._measured_us)

    def _lent_us(self) -> int:
        self.fleet.store.settle_up()
        return self.fleet.store.lent_us

    def _arrive(self) -> None:
        hub = self.fleet.hub
        hub.start(self._invocation)
        hub.after(int(self._random.expovariate(1 / self._between_us)), self._arrive)

    def _invocation(self) -> None:
        # Lambda hands an invocation to any idle environment, and starts one where there is none.
        number, governor = self._idle.pop(self._random.randrange(len(self._idle))) if self._idle else self._new()
        asked_us = self.fleet.hub.now_us
        with suppress(NoConnectionsLeft):
            lease = governor.acquire(timeout=self._timeout_s)
            self._hold(number, asked_us)
            governor.release(lease)
            self._idle.append((number, governor))
            return
        self.tally.refused += 1
        self._idle.append((number, governor))

    def _hold(self, number: int, asked_us: int) -> None:
        hub = self.fleet.hub
        self.tally.granted += 1
        self.tally.by_environment[number] += 1
        self.tally.waits_ms.append((hub.now_us - asked_us) / MS)
        hub.sleep(HOLD_US)
        self.tally.held_us += HOLD_US  # at its end: what began before the measurement stands for what ends after it

    def _new(self) -> tuple[int, Governor]:
        self._environments += 1
        return self._environments, self.fleet.governor(f"checkout/{self._environments}")


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all have the same, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if any(shares) else 0.0


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure 96 connections in 3 shards and 480 in 12."""
    if effort is not FULL:
        yield from _measured(12, 2, seconds=1, seeds=SEEDS[:1])
        return
    yield from _measured(96, 3, seconds=20, seeds=SEEDS)
    yield from _measured(480, 12, seconds=5, seeds=SEEDS)


def _measured(budget: int, shards: int, *, seconds: int, seeds: Sequence[int]) -> Iterator[Row]:
    """Yield one fleet's rows; a target is reached if every seed reaches it."""
    runs = [Overload(budget, shards, seed=seed) for seed in seeds]
    for run in runs:
        run.run(seconds * SECOND)
    where = f"{budget} connections in {shards} shards, demand 1.3"
    details = {f"seed {seed}": report(run) for seed, run in zip(seeds, runs, strict=True)}
    lent = Spread.of([run.lent() for run in runs])
    in_hands = Spread.of([run.used() for run in runs])
    units = Spread.of([run.spent / max(1, run.tally.granted) for run in runs])
    yield Row(
        NAME,
        f"share of the budget on loan, {where}",
        f"at least {LEAST_LENT}",
        f"{lent} ({in_hands.median:.3f} in holders' hands)",
        lent.low >= LEAST_LENT,
        details,
    )
    yield Row(NAME, f"write units a grant, {where}", f"at most {MOST_UNITS:g}", str(units), units.high <= MOST_UNITS)
    waits = {cut: statistics.median(each["wait_ms"][cut] for each in details.values()) for cut in ("p50", "p95", "p99")}
    spread = ", ".join(f"{cut} {wait:.0f}" for cut, wait in waits.items())
    granted, refused = (sum(getattr(run.tally, ended) for run in runs) for ended in ("granted", "refused"))
    served = granted / max(1, granted + refused)
    yield Row(NAME, f"waiting time of those served, {where}", "", f"{spread} ms; {served:.0%} served within 2 s")
    environments, waiting = (
        Spread.of([each[index] for each in details.values()]) for index in ("jain", "jain_of_waits")
    )
    yield Row(NAME, f"Jain's index, {where}", "", f"environments {environments}, waiting times {waiting}")


def report(run: Overload) -> dict[str, Any]:
    """Return everything that a run measured."""
    tally = run.tally
    cuts = statistics.quantiles(tally.waits_ms, n=100) if len(tally.waits_ms) > 1 else [0.0] * 99
    return {
        "granted": tally.granted,
        "refused": tally.refused,
        "environments": run._environments,  # noqa: SLF001
        "wait_ms": {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]},
        "jain": jain(list(tally.by_environment.values())),
        "jain_of_waits": jain(tally.waits_ms),
        "spent": dict(run.fleet.store.spent),
    }
