"""The one place that reads the system's clock; everything else is told the time as `now_ms`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock milliseconds since the epoch, and a way to wait."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""

    def sleep(self, seconds: float) -> None:
        """Block the caller for this many seconds."""


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC, as the operating system tells them."""
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for this many seconds."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
