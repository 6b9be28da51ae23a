"""The opening rate, simulated with the production code: a burst of environments against it, and the writes of a grant.

Virtual time, since an emulator on a small machine is slower than the rates that matter. That the conditions hold on
DynamoDB Local, with processes in real time, is tested in `tests/conformance/test_opening_rate.py`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from bench.measure import FULL
from bench.overload import jain
from bench.results import Row
from connection_governor.core.opening import pace_of
from connection_governor.core.operations import Operations
from connection_governor.errors import NoConnectionsLeft
from tests.support.fleet import DATABASE, Fleet
from tests.support.hub import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measure import Effort

NAME = "opening_rate"
RATE, BURST, SKEW_MS = 100, 50, 100
MOST_WRITES = 1.05
HOLD_US = SECOND
BUSY = 10  # a second: below that, an extra write now and then costs nothing
DSQL = (100, 1_000, 1_000)  # Aurora DSQL's rate and burst, with the usual allowance for clocks


class Crowd:
    """A database with an opening rate, and environments that come with nothing remembered.

    Args:
        budget, shards: of the database.
        limits: its rate, burst and allowance for clocks; a rate of 0: no limit.

    Attributes:
        opened_s: when each that was granted could open, seconds after the start.
        refused: how many were not granted.
    """

    def __init__(self, budget: int, shards: int, limits: tuple[int, int, int]) -> None:
        self._random = Random(7)  # noqa: S311 - a simulation
        self.fleet = Fleet(self._random, budget=budget, shards=shards)
        rate, burst, skew_ms = limits
        operations = Operations(self.fleet.store.truth, self.fleet.clock, self.fleet.entropy)
        limit = {"opens_per_second": rate, "open_burst": burst} if rate else {}
        settings = operations.set_budget(DATABASE, budget, shards=shards, skew_ms=skew_ms, **limit).settings
        self.tokens = shards * pace_of(settings).most_connections if rate else budget
        self.opened_s: list[float] = []
        self.refused = 0
        self.fleet.hub.run_for(60 * SECOND)
        self._began_us = self.fleet.hub.now_us

    def one(self, *, timeout_s: float) -> None:
        """Let one more environment acquire."""

        def acquires() -> None:
            try:
                governor = self.fleet.governor("checkout")
                lease = governor.acquire(timeout=timeout_s, lease_ms=3_600_000)
            except NoConnectionsLeft:
                self.refused += 1
                return
            self.opened_s.append((self.fleet.hub.now_us - self._began_us) / SECOND)
            self.fleet.hub.sleep(HOLD_US)
            governor.release(lease)

        self.fleet.hub.start(acquires)

    def run(self, seconds: int) -> None:
        """Let time pass."""
        self.fleet.hub.run_for(seconds * SECOND)
        self.opened_s.sort()

    def steady(self, per_second: float, seconds: int) -> None:
        """Let environments come at random, so many a second."""
        for _ in range(int(per_second * seconds)):
            self.one(timeout_s=2)
            self.fleet.hub.run_for(int(self._random.expovariate(per_second) * SECOND))
        self.run(5)

    def writes_a_grant(self) -> float:
        """Return how many writes a grant took, those refused included."""
        spent = self.fleet.store.spent
        return (spent["grant"] + spent["grant refused"]) / max(1, len(self.opened_s))

    def in_each_second(self) -> list[int]:
        """Return how many opened in each second from the start."""
        return [sum(second <= at < second + 1 for at in self.opened_s) for second in range(int(self.opened_s[-1]) + 1)]


def rows(effort: Effort) -> Iterator[Row]:
    """Yield the figures of bursts with and without patience, and of steady traffic with and without a rate."""
    count = 1_000 if effort is FULL else 100
    for shards in (1, 12):
        yield _burst_row(count, shards, within_us=0)
        yield _burst_row(count, shards, within_us=SECOND)
    crowd = Crowd(count, 1, (RATE, BURST, SKEW_MS))
    for _ in range(count):
        crowd.one(timeout_s=0)
    crowd.run(5)
    yield Row(NAME, f"{count} at once, none waits", "", f"{len(crowd.opened_s)} granted, {crowd.refused} refused")
    for limits in ((0, 0, 1_000), DSQL):
        for per_second in (0.1, 1, 10, 50, 90):
            yield _steady_row(limits, per_second)


def _burst_row(count: int, shards: int, *, within_us: int) -> Row:
    crowd = Crowd(count, shards, (RATE, BURST, SKEW_MS))
    for _ in range(count):
        crowd.one(timeout_s=20)
        crowd.fleet.hub.run_for(within_us // count)
    crowd.run(40)
    opened = crowd.opened_s
    most = max(sum(start <= at < start + 1 for at in opened) for start in opened)
    ideal_s = max(0, count - crowd.tokens) / RATE
    places = [at * RATE / (place + 1 - crowd.tokens) for place, at in enumerate(opened) if place >= crowd.tokens]
    arrive = f"{count} environments {'within a second' if within_us else 'at one moment'}"
    granted = f"{len(opened)} granted, the last after {opened[-1]:.2f} s (ideal {ideal_s:.2f})"
    cost = f"{crowd.writes_a_grant():.3f} writes a grant"
    return Row(
        NAME,
        f"{arrive}, {RATE} a second, burst {BURST}, {shards} shard(s), all wait",
        f"at most {BURST + RATE} in any second",
        f"{granted}, at most {most} in any second, {cost}, Jain's index of wait by place {jain(places):.3f}",
        most <= BURST + RATE and len(opened) + crowd.refused == count,
        {"in_each_second": crowd.in_each_second(), "refused": crowd.refused},
    )


def _steady_row(limits: tuple[int, int, int], per_second: float) -> Row:
    crowd = Crowd(1_000, 1, limits)
    crowd.steady(per_second, int(max(20, 30 / per_second)))
    writes, rate = crowd.writes_a_grant(), f"{limits[0]} a second, burst {limits[1]}" if limits[0] else "no rate"
    busy = per_second >= BUSY
    return Row(
        NAME,
        f"writes a grant, {per_second} cold environments a second, {rate}",
        f"at most {MOST_WRITES}" if busy else "",
        f"{writes:.3f}",
        writes <= MOST_WRITES if busy else None,
    )
