"""How an acquire waits: full jitter, a growing ceiling, never past its time-out or the invocation's deadline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.entropy import Entropy

FIRST_CEILING_MS = 150
LAST_CEILING_MS = 2_000
RESERVE_S = 0.25  # of an invocation: for whoever hears that no answer came


class Wait:
    """One acquire's patience.

    Args:
        clock, entropy: to wait and to draw jitter.
        give_up_ms: no wait ends later than this.
    """

    def __init__(self, clock: Clock, entropy: Entropy, *, give_up_ms: int) -> None:
        self._clock = clock
        self._entropy = entropy
        self._ceiling_ms = FIRST_CEILING_MS
        self._last = clock.now_ms() >= give_up_ms
        self.give_up_ms = give_up_ms
        self.looks_first = False

    def pause_s(self, retry_after_ms: int) -> float | None:
        """How long to wait before the next try; None: give up. When the time is up, one last and full try follows."""
        if self._last:
            return None
        pause_ms = int(self._entropy.fraction() * max(self._ceiling_ms, min(retry_after_ms, LAST_CEILING_MS)))
        self._ceiling_ms = min(2 * self._ceiling_ms, LAST_CEILING_MS)
        left_ms = self.give_up_ms - self._clock.now_ms()
        self._last = pause_ms >= left_ms
        self.looks_first = True
        return max(0, min(pause_ms, left_ms)) / 1_000
