"""Clocks that are wrong by a bounded amount, and randomness that a seed decides."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from tests.simulation.hub import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.hub import Process

_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


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
        return (now_us + min(max(error_us, -self._bound_us), self._bound_us)) // MS

    def monotonic_ms(self) -> int:
        """See `Clock.monotonic_ms`."""
        return self._hub.now_us // MS

    def sleep(self, seconds: float) -> None:
        """Let the virtual time pass."""
        self._process.sleep(max(0, int(seconds * SECOND)))


class SeededEntropy:
    """Lease ids and jitter from a seed. Ids are never drawn twice: each carries its environment's own prefix."""

    def __init__(self, random: Random, prefix: int) -> None:
        self._random = random
        self._prefix = "".join(_ID_ALPHABET[(prefix >> shift) & 63] for shift in (12, 6, 0))
        self._made = random.randrange(64**5)

    def lease_id(self) -> str:
        """Return eight characters; consecutive ids fall on shards in no order, as real ones do."""
        self._made = (self._made * 1_000_005 + 7) % 64**5
        digits = "".join(_ID_ALPHABET[(self._made >> shift) & 63] for shift in (24, 18, 12, 6, 0))
        return self._prefix + digits

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return self._random.random()
