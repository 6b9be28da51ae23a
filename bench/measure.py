"""Interleaved measurement: each variant runs in every round, so that other load on the machine affects all alike."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: how often every way has its turn.
        each: how often it does its work in one turn.
        warm: how often it does it before, unmeasured.
    """

    rounds: int
    each: int
    warm: int

    def scaled(self, share: float) -> Effort:
        """Return the same with a part of the work in each turn, for work that takes longer."""
        return Effort(self.rounds, max(1, int(self.each * share)), max(1, int(self.warm * share)))


FULL = Effort(rounds=21, each=60, warm=300)
TINY = Effort(rounds=2, each=2, warm=2)


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with its range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the spread of at least one sample."""
        return cls(*(round(number, 4) for number in (statistics.median(samples), min(samples), max(samples))))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


@dataclass(frozen=True, slots=True)
class Series:
    """What one way took: milliseconds for each piece of work, one sample a round."""

    cpu_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]

    def report(self) -> dict[str, Any]:
        """Return the form for the results."""
        return {"cpu_ms": asdict(Spread.of(self.cpu_ms)), "wall_ms": asdict(Spread.of(self.wall_ms))}


def interleaved(ways: Mapping[str, Callable[[], object]], effort: Effort) -> dict[str, Series]:
    """Measure all of `ways` in turn, round by round. CPU is this process's, in all its threads."""
    for way in ways.values():
        for _ in range(effort.warm):
            way()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(effort.rounds):
        for name, way in ways.items():
            samples[name].append(_turn(way, effort.each))
    return {
        name: Series(tuple(cpu for cpu, _ in taken), tuple(wall for _, wall in taken))
        for name, taken in samples.items()
    }


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> Spread:
    """Return our time as a multiple of theirs, round by round."""
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def _turn(way: Callable[[], object], times: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(times):
        way()
    return (time.process_time() - cpu) * 1_000 / times, (time.perf_counter() - wall) * 1_000 / times
