"""Bounded retries with full jitter, for requests that are safe to repeat: every request of the governor is."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from connection_governor.core.values import dataclass
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.entropy import Entropy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to try, and how long to wait between tries (milliseconds; doubled each time, up to the ceiling)."""

    tries: int
    base_ms: int
    ceiling_ms: int


# When DynamoDB throttles, what gives capacity back goes before what takes it: it waits less and tries more often.
GIVING_BACK = Patience(tries=6, base_ms=25, ceiling_ms=400)
TAKING = Patience(tries=4, base_ms=50, ceiling_ms=800)


class Doubt:
    """Whether a write that is tried again may have been applied by an earlier try, whose answer was lost."""

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
    """Repeats a call while the store or the function cannot be reached."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy

    def __call__(self, call: Callable[[], T], patience: Patience, *, until_ms: int | None = None) -> T:
        """Return what `call` returns.

        Args:
            call: what to try; it raises `GovernorUnavailable` where another try may help.
            patience: how often and how patiently.
            until_ms: no try starts later than this (milliseconds since 1970 UTC).

        Raises:
            GovernorUnavailable: the last try's, when the tries or the time are used up.
        """
        for attempt in range(patience.tries):
            try:
                return call()
            except GovernorUnavailable as error:
                pause_ms = self._entropy.fraction() * min(patience.ceiling_ms, patience.base_ms << attempt)
                late = until_ms is not None and self._clock.now_ms() + pause_ms > until_ms
                if late or not error.retryable or attempt + 1 == patience.tries:
                    raise
            self._clock.sleep(pause_ms / 1_000)
        raise AssertionError("unreachable: the last try returned or raised")
