"""Bounded retries with full jitter, for requests that are safe to repeat: every request of the governor is."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from connection_governor.core.values import dataclass
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy

T = TypeVar("T")

RETRIES_START_MS = 5_000  # a second retry, and those after it, start within this time of the first try


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait between tries (milliseconds; doubled each time, up to the ceiling)."""

    tries: int
    base_ms: int
    ceiling_ms: int


# When DynamoDB throttles, releases go before acquires: they wait less and try more often.
RELEASING = RetryPolicy(tries=6, base_ms=25, ceiling_ms=400)
ACQUIRING = RetryPolicy(tries=4, base_ms=50, ceiling_ms=800)


class Doubt:
    """Whether an earlier try of a write, whose answer was lost, may have applied it."""

    def __init__(self) -> None:
        self.exists = False

    def of(self, call: Callable[[], T]) -> T:
        """Return what `call`, one try, returns; a failure other than throttling leaves a doubt."""
        try:
            return call()
        except GovernorUnavailable as error:
            self.exists = self.exists or not error.throttled
            raise


class Retry:
    """Repeats a call while the store or the function cannot be reached.

    The caller's wait for a free connection does not matter here. A try whose answer was lost may have been applied, and
    only its repetition finds out. So even a caller that does not wait gets its retries.
    """

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy

    def __call__(self, call: Callable[[], T], policy: RetryPolicy, deadline: Deadline | None = None) -> T:
        """Return what `call` returns.

        Args:
            call: what to try; it raises `GovernorUnavailable` if another try may help.
            policy: how often and how patiently. One retry always follows; more start only within 5 s.
            deadline: no try starts later than this.

        Raises:
            GovernorUnavailable: the last try's, when the tries or the time are used up.
        """
        began_ms = self._clock.monotonic_ms()
        for attempt in range(policy.tries):
            try:
                return call()
            except GovernorUnavailable as error:
                pause_ms = self._entropy.fraction() * min(policy.ceiling_ms, policy.base_ms << attempt)
                took_ms = self._clock.monotonic_ms() - began_ms + pause_ms
                late = deadline is not None and pause_ms > deadline.left_ms()
                late = late or (attempt > 0 and took_ms > RETRIES_START_MS)
                if late or not error.retryable or attempt + 1 == policy.tries:
                    raise
            self._clock.sleep(pause_ms / 1_000)
        raise AssertionError("unreachable: the last try returned or raised")
