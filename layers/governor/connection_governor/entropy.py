"""Randomness from the operating system.

A SnapStart snapshot restores a seeded generator, and two environments with the same lease id would share a slot.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from typing import Protocol


class Entropy(Protocol):
    """Where lease ids and jitter come from."""

    def lease_id(self) -> str:
        """Eight characters of `[A-Za-z0-9_-]` that were never used before."""

    def fraction(self) -> float:
        """A number in [0, 1), for jitter."""


class SystemEntropy:
    """The operating system's generator."""

    def lease_id(self) -> str:
        """48 random bits as eight characters."""
        return urlsafe_b64encode(os.urandom(6)).decode()

    def fraction(self) -> float:
        """32 random bits as a number in [0, 1)."""
        return int.from_bytes(os.urandom(4), "big") / 2**32


SYSTEM_ENTROPY = SystemEntropy()
