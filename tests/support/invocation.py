"""Lambda contexts: one whose time really passes, and one that a test sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock


class Invocation:
    """A Lambda context of an invocation that begins now and runs out by a clock."""

    def __init__(self, seconds: float = 1.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._end_ms = clock.now_ms() + round(seconds * 1_000)

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the deadline; none is left after it."""
        return max(0, self._end_ms - self._clock.now_ms())

    def overrun_s(self) -> float:
        """Return the seconds since the deadline."""
        return (self._clock.now_ms() - self._end_ms) / 1_000


class FakeContext:
    """As much of Lambda's context as the handlers use."""

    def __init__(self, remaining_ms: int = 30_000) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        """Return what the test says."""
        return self.remaining_ms
