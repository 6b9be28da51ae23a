"""How an acquire waits: full jitter, a growing ceiling, never past its time-out or the invocation's deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from connection_governor.clock import Clock
    from connection_governor.entropy import Entropy

FIRST_CEILING_MS = 150
LAST_CEILING_MS = 2_000
RESERVE_S = 0.25  # of an invocation: for whoever hears that no answer came


class InvocationContext(Protocol):
    """What is used of the Lambda context."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda stops the invocation."""


def deadline_ms(context: InvocationContext, clock: Clock) -> int:
    """When Lambda stops the invocation, milliseconds since 1970 UTC."""
    return clock.now_ms() + context.get_remaining_time_in_millis()


class InvocationEnd:
    """When the running invocation ends, as far as it was told: no request outlasts it."""

    def __init__(self) -> None:
        self._ends_s = 0.0

    def note(self, context: InvocationContext) -> None:
        """Take in the context of the invocation that runs now."""
        self._ends_s = time.monotonic() + context.get_remaining_time_in_millis() / 1_000

    def shortened_s(self, timeout_s: float) -> float:
        """At most so long, and less where the invocation ends before; one that has ended bounds the next no more."""
        left_s = self._ends_s - time.monotonic()
        return timeout_s if left_s <= 0 else min(timeout_s, max(left_s - RESERVE_S, left_s / 2))


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
