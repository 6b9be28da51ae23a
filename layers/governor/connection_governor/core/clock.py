"""What the rules' callers need of a clock; `connection_governor.system` has the machine's."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what is written, monotonic time for what is awaited, and a way to wait."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may be set forwards and backwards."""

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; never goes backwards."""

    def sleep(self, seconds: float) -> None:
        """Block the caller for this many seconds."""
