"""How an acquire waits: full jitter, a growing ceiling, never past its time-out or the invocation's reserve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy

FIRST_CEILING_MS = 150
LAST_CEILING_MS = 2_000


class Wait:
    """The pauses of one acquire.

    Args:
        entropy: draws jitter.
        until: no pause ends later than this.

    Attributes:
        is_last: no try follows the next one.
        looks_first: a try has been refused before.
    """

    def __init__(self, entropy: Entropy, until: Deadline) -> None:
        self._entropy = entropy
        self._ceiling_ms = FIRST_CEILING_MS
        self.is_last = until.has_passed()
        self.until = until
        self.looks_first = False

    def pause_s(self, retry_after_ms: int) -> float | None:
        """Return how long to wait before the next try; None: stop. One full try follows the last pause."""
        if self.is_last:
            return None
        pause_ms = int(self._entropy.fraction() * max(self._ceiling_ms, min(retry_after_ms, LAST_CEILING_MS)))
        self._ceiling_ms = min(2 * self._ceiling_ms, LAST_CEILING_MS)
        left_ms = self.until.left_ms()
        self.is_last = pause_ms >= left_ms
        self.looks_first = True
        return max(0, min(pause_ms, left_ms)) / 1_000
