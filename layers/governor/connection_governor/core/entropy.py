"""The randomness that the engine needs; `connection_governor.system` has the machine's."""

from __future__ import annotations

from typing import Protocol


class Entropy(Protocol):
    """Where lease ids and jitter come from."""

    def lease_id(self) -> str:
        """Return eight characters of `[A-Za-z0-9_-]` that were never used before."""

    def fraction(self) -> float:
        """Return a number in [0, 1), for jitter."""
