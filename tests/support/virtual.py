"""Time and chance that a test decides: nothing here waits, and the same test draws the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

NOW_MS = 1_800_000_000_000
_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class VirtualClock:
    """A clock at `now`; each sleep moves it on, and the naps are kept.

    Attributes:
        meanwhile: what others do during the next naps, one a nap.
    """

    def __init__(self, now: int = NOW_MS) -> None:
        self.now = now
        self.elapsed = 0
        self.naps: list[float] = []
        self.meanwhile: list[Callable[[], object]] = []

    def now_ms(self) -> int:
        """Return the virtual time, milliseconds since 1970 UTC."""
        return self.now

    def monotonic_ms(self) -> int:
        """Return the virtual time since the start, which no `set_back` moves."""
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        """Take no real time at all."""
        self.naps.append(seconds)
        self.advance(round(seconds * 1_000))
        if self.meanwhile:
            self.meanwhile.pop(0)()

    def advance(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now += milliseconds
        self.elapsed += milliseconds

    def set_back(self, milliseconds: int) -> None:
        """Set the wall clock back, as a time service or a restored snapshot does; no time passes."""
        self.now -= milliseconds


class SetClock:
    """A wall clock that stands still until a test sets it, beside real monotonic time; nothing may sleep by it."""

    def __init__(self, now: int) -> None:
        self.now = now

    def now_ms(self) -> int:
        """Return the test's value."""
        return self.now

    def monotonic_ms(self) -> int:
        """Real time: sockets are real."""
        return SYSTEM_CLOCK.monotonic_ms()

    def sleep(self, seconds: float) -> None:
        """Fail: code that sleeps here would sleep in real time elsewhere."""
        raise AssertionError(f"asked to wait {seconds} s")


class SetEntropy:
    """Ids in order, and the same fraction again and again until it is set to another."""

    def __init__(self, fraction: float = 0.5, prefix: str = "") -> None:
        self.share = fraction
        self._prefix = prefix
        self._made = 0

    def lease_id(self) -> str:
        """Return a new id each time: `lease001`, then `lease002`, and so on."""
        self._made += 1
        return f"{self._prefix or 'lease'}{self._made:03}".rjust(8, "_")

    def fraction(self) -> float:
        """Return the test's value."""
        return self.share


class SeededEntropy:
    """Lease ids and jitter from a seed. Ids are never drawn twice: each carries its environment's own prefix."""

    def __init__(self, random: Random, prefix: int) -> None:
        self._random = random
        self._prefix = "".join(_ID_ALPHABET[(prefix >> shift) & 63] for shift in (12, 6, 0))
        self._made = random.randrange(64**5)

    def lease_id(self) -> str:
        """Return eight characters; consecutive ids fall on shards in no order, as real ones do."""
        self._made = (self._made * 1_000_005 + 7) % 64**5
        digits = "".join(_ID_ALPHABET[(self._made >> shift) & 63] for shift in (24, 18, 12, 6, 0))
        return self._prefix + digits

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return self._random.random()


class Journal:
    """A metric writer that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
