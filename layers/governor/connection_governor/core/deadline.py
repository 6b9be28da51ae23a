"""When an invocation ends, and what that bounds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock

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
