"""The time limit of a request: one frozen value, made from the Lambda context and passed down to the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock

RESERVE_MS = 250  # of an invocation: the time that a handler needs to answer after the last request


class InvocationContext(Protocol):
    """The part of the Lambda context that is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return milliseconds until Lambda stops the invocation."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nothing is started or awaited. It is read by a clock that is never set, so it cannot move.

    Attributes:
        clock: whose `monotonic_ms` it is read by.
        at_ms: that clock's reading at the moment.
    """

    clock: Clock
    at_ms: int

    @classmethod
    def after(cls, length_ms: int, clock: Clock) -> Deadline:
        """Return the moment this many milliseconds from now."""
        return cls(clock, clock.monotonic_ms() + length_ms)

    @classmethod
    def of_invocation(cls, context: InvocationContext, clock: Clock) -> Deadline:
        """Return the moment at which Lambda stops the invocation."""
        return cls.after(context.get_remaining_time_in_millis(), clock)

    def left_ms(self) -> int:
        """Return how many milliseconds are left; negative if it has passed."""
        return self.at_ms - self.clock.monotonic_ms()

    def has_passed(self) -> bool:
        """Return whether nothing is left."""
        return self.at_ms <= self.clock.monotonic_ms()

    def wall_ms(self) -> int:
        """Return the moment in milliseconds since 1970 UTC, by the clock's present time."""
        return self.clock.now_ms() + self.left_ms()

    def before(self, length_ms: int) -> Deadline:
        """Return the moment this many milliseconds earlier."""
        return Deadline(self.clock, self.at_ms - length_ms)

    def within(self, length_ms: int) -> Deadline:
        """Return this moment, or the one this many milliseconds from now if that is earlier."""
        at_ms = self.clock.monotonic_ms() + length_ms
        return self if self.at_ms <= at_ms else Deadline(self.clock, at_ms)

    def for_release(self, reserve_ms: int) -> Deadline | None:
        """Return the deadline of requests that release; None if this moment has passed.

        They stop `reserve_ms` early, but near the end they may use half of the time left: most take 5 ms. A deadline
        that has passed belongs to a former invocation, and bounds nothing in the next one.
        """
        left_ms = self.left_ms()
        return None if left_ms <= 0 else self.before(min(reserve_ms, left_ms - left_ms // 2))
