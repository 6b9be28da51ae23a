"""The clock that the rules' callers need; `connection_governor.system` has the machine's."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for written times, monotonic time for waits, and a way to wait."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC; may be set forwards and backwards."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since some moment; never goes backwards."""

    def sleep(self, seconds: float) -> None:
        """Block the caller for this many seconds."""
