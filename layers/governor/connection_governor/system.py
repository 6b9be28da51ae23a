"""The one place that reads the machine's clock and its randomness; all other code gets them passed in.

Randomness comes from the operating system each time: a SnapStart snapshot restores a seeded generator, and two
environments with the same lease id would share a slot.
"""

from __future__ import annotations

import os
import time
from base64 import urlsafe_b64encode


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC, by the operating system."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return milliseconds since some moment; never goes backwards."""
        return time.monotonic_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for this many seconds."""
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()


class SystemEntropy:
    """The operating system's generator."""

    def lease_id(self) -> str:
        """Return 48 random bits as eight characters."""
        return urlsafe_b64encode(os.urandom(6)).decode()

    def fraction(self) -> float:
        """Return 32 random bits as a number in [0, 1)."""
        return int.from_bytes(os.urandom(4), "big") / 2**32


SYSTEM_ENTROPY = SystemEntropy()
