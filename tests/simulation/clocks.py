"""Clocks that are wrong by a bounded amount, and a stream of random numbers for each actor."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from tests.support.hub import Process


def stream(seed: str) -> Random:
    """Return a generator of its own for each actor, so that leaving one out does not change what the others draw."""
    return Random(seed)


class SkewedClock:
    """An environment's wall clock: off by an offset, drifting, and stepped now and then; always within `bound_us`.

    Args:
        process: whose clock it is; who sleeps lets the virtual time pass.
        random: where its errors come from.
        bound_us: how far from the true time it may ever be.
        drift_ppm: the most that it gains or loses.
    """

    def __init__(self, process: Process, random: Random, *, bound_us: int, drift_ppm: int) -> None:
        self._process = process
        self._hub = process.hub
        self._random = random
        self._bound_us = bound_us
        self._drift_ppm = drift_ppm
        self.step()

    def step(self) -> None:
        """Set the clock anew: another error and another drift, as a time service would."""
        extreme = self._random.random() < 0.3
        sign = self._random.choice((-1, 1))
        self._offset_us = sign * self._bound_us if extreme else self._random.randint(-self._bound_us, self._bound_us)
        self._ppm = self._random.randint(-self._drift_ppm, self._drift_ppm)
        self._since_us = self._hub.now_us

    def now_ms(self) -> int:
        """Return the environment's own time."""
        now_us = self._hub.now_us
        error_us = self._offset_us + self._ppm * (now_us - self._since_us) // SECOND
        self._process.clock_ms = (now_us + min(max(error_us, -self._bound_us), self._bound_us)) // MS
        return self._process.clock_ms

    def monotonic_ms(self) -> int:
        """See `Clock.monotonic_ms`."""
        return self._hub.now_us // MS

    def sleep(self, seconds: float) -> None:
        """Let the virtual time pass."""
        self._process.sleep(max(0, int(seconds * SECOND)))
