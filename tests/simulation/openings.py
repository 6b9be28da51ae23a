"""The ground truth of the opening rate: a token bucket of its own, by true time, over every grant that was stored.

A grant counts when it was applied, or when its token is due if that is later. In any span of true time no more may
count than the burst, and the rate times the span. The rate and burst are the highest of the plans in force; those of a
former plan also hold for as long as tokens may be taken ahead. A request whose clock, as it arrives, is further off
than the allowance (it was under way for too long) is left out: the promise counts it on top, itself and no more.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from connection_governor.core.opening import LONGEST_WAIT_MS
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connection_governor.core.lease import Shard
    from tests.simulation.ledger import Tally
    from tests.simulation.network import Request
    from tests.support.hub import Hub

AHEAD_US = (LONGEST_WAIT_MS + 1_000) * MS

Rate = tuple[int, int]
"""Grants a second, and burst; (0, 0): no limit."""


class Openings:
    """Counts grants against the rate.

    Args:
        hub: the true time.
        tally: counts what was met.
        skew_ms: the allowance for clocks.
        breaks: notes a broken invariant that depends on clocks.
    """

    def __init__(self, hub: Hub, tally: Tally, skew_ms: int, breaks: Callable[[str, str], None]) -> None:
        self._hub = hub
        self._tally = tally
        self._band_us = skew_ms * MS // 2
        self._breaks = breaks
        self._in_force: list[tuple[int, frozenset[Rate]]] = [(0, frozenset())]
        self._due: list[tuple[int, int]] = []
        self._level = 0  # millionths of a token
        self._at_us = 0

    def in_force(self, rates: Iterable[Rate]) -> None:
        """Note the rates of all plans that are in force from now on."""
        found = frozenset(rates)
        if found != self._in_force[-1][1]:
            self.settle()
            self._in_force.append((self._hub.now_us, found))

    def granted(self, connections: int, before: Shard, after: Shard, request: Request) -> None:
        """Count a grant."""
        if after.opens_us is None:
            return
        self.settle()
        now_us = self._hub.now_us
        error_us = request.clock_ms * MS - now_us
        if abs(error_us) > self._band_us:
            self._tally.outcomes["opening of a late request"] += 1
            return
        ahead_us = max(0, after.opens_us - request.clock_ms * MS)
        self._tally.outcomes["opening due later" if ahead_us else "opening"] += 1
        if before.opens_us is not None and after.opens_us < before.opens_us:
            self._breaks("opening", f"tokens were given back: {before.opens_us} -> {after.opens_us}")
        heapq.heappush(self._due, (now_us + ahead_us, connections))

    def settle(self) -> None:
        """Check every grant that is due by now."""
        while self._due and self._due[0][0] <= self._hub.now_us:
            due_us, connections = heapq.heappop(self._due)
            self._spend(due_us, connections)

    def _spend(self, due_us: int, connections: int) -> None:
        while (next_us := self._next_change_us()) < due_us:
            self._fill(next_us)
        self._fill(due_us)
        self._level -= connections * SECOND
        rate, burst = self._highest(due_us)
        if rate and self._level < 0:
            short = -self._level / SECOND
            self._breaks("opened too fast", f"{short:.3f} above a burst of {burst} and {rate} a second")
            self._level = 0

    def _fill(self, until_us: int) -> None:
        rate, burst = self._highest(until_us)
        self._level = min(self._level + rate * (until_us - self._at_us), burst * SECOND) if rate else 1 << 62
        self._at_us = until_us

    def _next_change_us(self) -> int:
        return min((from_us for from_us, _ in self._in_force if from_us > self._at_us), default=1 << 62)

    def _highest(self, at_us: int) -> Rate:
        """Return the highest rate and burst in force up to then, since tokens that are due then may have been taken."""
        while len(self._in_force) > 1 and self._in_force[1][0] <= self._at_us - AHEAD_US:
            del self._in_force[0]
        found: set[Rate] = set()
        for number, (from_us, rates) in enumerate(self._in_force):
            ends_us = self._in_force[number + 1][0] if number + 1 < len(self._in_force) else 1 << 62
            if from_us <= at_us and ends_us > at_us - AHEAD_US:
                found |= rates
        if not found or (0, 0) in found:
            return 0, 0
        return max(rate for rate, _ in found), max(burst for _, burst in found)
