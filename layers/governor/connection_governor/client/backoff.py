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
        left_ms: how long that is.

    Attributes:
        is_last: no try follows the next one.
        looks_first: a try has been refused before, since no connection was left.
        left_ms: how much of the wait was left when the next try was due.
    """

    def __init__(self, entropy: Entropy, until: Deadline, left_ms: int = 0) -> None:
        self._entropy = entropy
        self.left_ms = left_ms
        self._ceiling_ms = FIRST_CEILING_MS
        self.is_last = until.has_passed()
        self.until = until
        self.looks_first = False

    def pause_s(self, retry_after_ms: int, *, too_fast: bool = False) -> float | None:
        """Return how long to wait before the next try; None: stop. One full try follows the last pause.

        A refusal for the opening rate stops a wait that ends before a token is due: tokens never come back early.
        """
        if self.is_last or (too_fast and retry_after_ms > self.until.left_ms()):
            return None
        pause_ms = int(self._entropy.fraction() * max(self._ceiling_ms, min(retry_after_ms, LAST_CEILING_MS)))
        self._ceiling_ms = min(2 * self._ceiling_ms, LAST_CEILING_MS)
        left_ms = self.until.left_ms()
        self.is_last = pause_ms >= left_ms
        self.looks_first = self.looks_first or not too_fast
        self.left_ms = max(0, left_ms - pause_ms)
        return max(0, min(pause_ms, left_ms)) / 1_000
