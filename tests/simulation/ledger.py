"""The ground truth: checks every change of the table against the design's promises, from the change itself.

It knows nothing of the production code's rules: it reads the items before and after each write, the true time, and
what holders were told. A lease counts until its end by the slowest clock that the allowance permits, or until its
holder gave it back.

    invariant               what it says
    ----------------------  -----------------------------------------------------------------------------------------
    over-grant              unexpired leases never add up to more than the highest budget in force since the oldest of
                            them was granted or renewed (so, within the last lease length + skew)
    counter                 allowed - remaining = the sum of the leases, in every item, after every write
    share                   no grant leaves a shard with more than its share; no renewal in one that is overdrawn
    fence                   grows by one with each grant and never otherwise
    plan                    a shard's plan never goes back, nor the settings'
    double count            no raise hands out what another shard still has or lends
    once                    one acquire stores one lease, late or second deliveries apart; a release removes what its
                            holder had; a renewal only moves the end, and never back
    taken early             no lease is taken over or reclaimed before its end by any clock of the allowance
    phantom                 what a holder was told it has is stored, as its own, until it is over
    ended early             no holder is named a session to end whose lease is in force
    opened too fast         see `openings`
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tests.simulation.openings import Openings
from tests.support.hub import MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.lease import Lease, Settings, Shard
    from tests.simulation.network import Request
    from tests.support.hub import Hub

_DIGITS = {digit: at for at, digit in enumerate("-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")}


class Violation(Exception):  # noqa: N818 - the field's own word
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


class Tally:
    """How often each fault, branch and outcome was met; a step is one delivered store request or one fault."""

    def __init__(self) -> None:
        self.steps = 0
        self.faults: Counter[str] = Counter()
        self.branches: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()

    def fault(self, name: str) -> None:
        """Count one fault."""
        self.steps += 1
        self.faults[name] += 1

    def add(self, other: Tally) -> None:
        """Take in another run's."""
        self.steps += other.steps
        self.faults += other.faults
        self.branches += other.branches
        self.outcomes += other.outcomes
        self.broken += other.broken


class Held:
    """An unexpired lease: how much, until when, and since when its present length runs."""

    __slots__ = ("connections", "end_ms", "since_us")

    def __init__(self, connections: int, end_ms: int, since_us: int) -> None:
        self.connections = connections
        self.end_ms = end_ms
        self.since_us = since_us


Place = tuple[int, str]
"""Where a lease is: shard index and lease id."""


class Ledger:
    """The checks, for one database.

    Args:
        hub: the true time.
        tally: counts what was met.
        skew_ms: the database's allowance for clocks.
        honest_clocks: whether all clocks keep within it; if not, what time decides is counted and not asserted.

    Attributes:
        changed_us: when anything was last written.
    """

    def __init__(self, hub: Hub, tally: Tally, *, skew_ms: int, honest_clocks: bool) -> None:
        self._hub = hub
        self._tally = tally
        self._band_ms = skew_ms // 2
        self._skew_ms = skew_ms
        self._honest = honest_clocks
        self.shards: dict[int, Shard] = {}
        self.settings: Settings | None = None
        self.held: dict[Place, Held] = {}
        self.lent = 0
        self.changed_us = hub.now_us
        self._ends: list[tuple[int, Place]] = []
        self.given_up: set[Place] = set()
        self._granted_by_call: Counter[tuple[str, int]] = Counter()
        self._plans: dict[int, int] = {}
        self._stamped: defaultdict[int, set[int]] = defaultdict(set)
        self._in_force: list[tuple[int, int]] = [(0, 0)]
        self._rates: dict[int, tuple[int, int]] = {}
        self.openings = Openings(hub, tally, skew_ms, self.breaks)
        self.on_gone: Callable[[Place], None] = _ignore
        self.on_change: Callable[[], None] = _nothing

    # What the table tells.

    def changed(self, before: Shard | None, after: Shard, request: Request) -> None:
        """Check a write that was applied to a shard."""
        self._forget_expired()
        self.changed_us = self._hub.now_us
        index = after.key.index
        self.shards[index] = after
        self._stamped[after.plan].add(index)
        self._check_counter(after)
        if before is None:
            self._budget_moved()
            self.on_change()
            return
        if before.leases is not after.leases:
            self._check_leases(index, before, after, request)
        elif after.fence != before.fence:
            raise Violation("fence", f"moved without a grant: {before.fence} -> {after.fence}")
        if before.plan != after.plan or before.allowed != after.allowed:
            self._check_resize(before, after)
        self.on_change()

    def settings_saved(self, settings: Settings) -> None:
        """Check a new plan that was stored."""
        if self.settings is not None and settings.plan <= self.settings.plan:
            raise Violation("plan", f"plan {settings.plan} was stored after plan {self.settings.plan}")
        self.settings = settings
        self.changed_us = self._hub.now_us
        self._plans[settings.plan] = settings.allowed
        self._rates[settings.plan] = (settings.opens_per_second, settings.open_burst)
        self._budget_moved()
        self.on_change()

    # What holders were told, and what they say.

    def granted(self, lease: Lease) -> None:
        """Check a lease that a holder was granted, and the sessions that it may therefore end."""
        self._check_taken_over(lease)
        place = (lease.shard, lease.lease_id)
        held = self.held.get(place)
        record = self.shards[lease.shard].leases.get(lease.lease_id, "")
        if record and tag(record) != tag(lease.record):
            self.breaks("phantom", f"a holder was granted {lease}, which is another's: {tag(record)}")
        if held is None or held.end_ms < lease.expires_at_ms or held.connections != lease.connections:
            if self._is_over(lease.expires_at_ms):
                return
            self.breaks(
                "phantom", f"a holder was granted {lease}, stored is {held and (held.connections, held.end_ms)}"
            )

    def _check_taken_over(self, lease: Lease) -> None:
        for name in lease.taken_over:
            lease_id, index = name.split(":")[1], int(name.rpartition("#")[2])
            self._tally.outcomes["session named to its taker"] += 1
            if (index, lease_id) in self.held and (index, lease_id) not in self.given_up:
                self.breaks(
                    "ended early", f"{lease.lease_id} may end the session of {lease_id}, whose lease is in force"
                )

    def gives_back(self, lease: Lease) -> None:
        """Note that a holder uses its lease no more."""
        self.given_up.add((lease.shard, lease.lease_id))

    # The checks.

    def _check_counter(self, shard: Shard) -> None:
        total = sum(connections(record) for record in shard.leases.values())
        if shard.allowed - shard.remaining != total:
            raise Violation("counter", f"allowed {shard.allowed} - remaining {shard.remaining} != leases {total}")

    def _check_leases(self, index: int, before: Shard, after: Shard, request: Request) -> None:
        old, new = before.leases, after.leases
        added = [lease_id for lease_id in new if lease_id not in old]
        removed = [lease_id for lease_id in old if lease_id not in new]
        if after.fence != before.fence + len(added):
            raise Violation("fence", f"{before.fence} -> {after.fence} with {len(added)} grants")
        for lease_id in removed:
            self._check_removed(index, lease_id, old[lease_id], taken_over=bool(added))
        for lease_id in added:
            self._check_added(index, lease_id, new[lease_id], after, request)
            self.openings.granted(connections(new[lease_id]), before, after, request)
        if not added and not removed:
            self._check_renewed(index, before, after)

    def _check_removed(self, index: int, lease_id: str, record: str, *, taken_over: bool) -> None:
        place = (index, lease_id)
        self.on_gone(place)
        held = self.held.get(place)
        if place in self.given_up and not taken_over:
            if held is not None:
                self.lent -= held.connections
                del self.held[place]
            return
        if held is not None:
            self.breaks("taken early", f"{lease_id} of shard {index} was not over: {held.end_ms} at {self._now_ms()}")
        elif not self._is_over(end_ms(record)):
            self.breaks("taken early", f"{lease_id} of shard {index} was stored until {end_ms(record)}")
        self._tally.outcomes["lease taken over" if taken_over else "lease reclaimed"] += 1

    def _check_added(self, index: int, lease_id: str, record: str, after: Shard, request: Request) -> None:
        if after.remaining < 0:
            raise Violation("share", f"{lease_id} was granted although {-after.remaining} too many are lent")
        place, ends_ms = (index, lease_id), end_ms(record)
        if self._is_over(ends_ms):
            self._tally.outcomes["lease stored after its end"] += 1
            return
        if request.stray:
            self._tally.outcomes["lease stored by a stray acquire"] += 1
        else:
            self._check_only_one(request, lease_id)
        self._hold(place, connections(record), ends_ms)

    def _check_only_one(self, request: Request, lease_id: str) -> None:
        if not request.call:  # the governor function's: its caller may have given up and asked again
            return
        call = (request.sender.name, request.call)
        self._granted_by_call[call] += 1
        if self._granted_by_call[call] > 1:
            self.breaks("once", f"one acquire of {request.sender.name} stored a second lease, {lease_id}")

    def _check_renewed(self, index: int, before: Shard, after: Shard) -> None:
        moved = [lease_id for lease_id, record in after.leases.items() if before.leases[lease_id] != record]
        for lease_id in moved:
            old, new = before.leases[lease_id], after.leases[lease_id]
            if after.remaining < 0:
                raise Violation("share", f"{lease_id} was renewed although {-after.remaining} too many are lent")
            if len(moved) > 1 or old[7:] != new[7:] or new[:7] < old[:7]:
                raise Violation("once", f"a renewal made {new} of {old}")
            if not self._is_over(end_ms(new)):
                self._hold((index, lease_id), connections(new), end_ms(new))

    def _check_resize(self, before: Shard, after: Shard) -> None:
        if after.plan < before.plan:
            raise Violation("plan", f"shard {after.key.index} went back from plan {before.plan} to {after.plan}")
        self._budget_moved()
        if _committed(after) > _committed(before):
            committed, budget = sum(map(_committed, self.shards.values())), self._in_force[-1][1]
            if committed > budget:
                raise Violation("double count", f"{committed} are handed out or lent, the budget is {budget}")

    def _hold(self, place: Place, count: int, ends_ms: int) -> None:
        held = self.held.get(place)
        if held is not None:
            self.lent -= held.connections
        self.held[place] = Held(count, ends_ms, self._hub.now_us)
        self.lent += count
        heapq.heappush(self._ends, (ends_ms, place))
        if self.lent > self._in_force[-1][1]:
            self.check_lent(self.lent)

    def check_lent(self, lent: int) -> None:
        """Check the connections in use: at most the budget in force since the oldest lease was granted or renewed."""
        since_us = min((held.since_us for held in self.held.values()), default=self._hub.now_us)
        bound = self.budget_since(since_us)
        if lent > bound:
            self.breaks("over-grant", f"{lent} connections are lent, the budget was at most {bound}")

    def budget_since(self, since_us: int) -> int:
        """Return the highest budget that was in force since then."""
        bound = 0
        for from_us, budget in reversed(self._in_force):
            bound = max(bound, budget)
            if from_us <= since_us:
                break
        return bound

    # Budget plans.

    def _budget_moved(self) -> None:
        """Move the budget in force: a plan is, from its storing until one later plan has stamped every shard."""
        whole = max((plan for plan, stamped in self._stamped.items() if stamped >= self.shards.keys()), default=0)
        for plan in [plan for plan in self._plans if plan < whole]:
            del self._plans[plan], self._rates[plan]
        for plan in [plan for plan in self._stamped if plan < whole]:
            del self._stamped[plan]
        budget = max(self._plans.values(), default=0)
        self.openings.in_force(self._rates.values())
        if budget != self._in_force[-1][1]:
            self._in_force.append((self._hub.now_us, budget))

    @property
    def is_settled(self) -> bool:
        """Whether every shard carries the last plan, and all of its budget is handed out to them."""
        settings, shards = self.settings, self.shards.values()
        if settings is None or any(shard.plan != settings.plan for shard in shards):
            return False
        return sum(shard.allowed for shard in shards) == settings.allowed

    # Time.

    def _now_ms(self) -> int:
        return self._hub.now_us // MS

    def _is_over(self, ends_ms: int) -> bool:
        """Return whether the end has passed by every clock of the allowance."""
        return ends_ms < self._now_ms() - self._band_ms

    def _forget_expired(self) -> None:
        ends, over_ms = self._ends, self._now_ms() - self._band_ms
        while ends and ends[0][0] < over_ms:
            ends_ms, place = heapq.heappop(ends)
            held = self.held.get(place)
            if held is not None and held.end_ms == ends_ms:
                self.lent -= held.connections
                del self.held[place]

    def breaks(self, invariant: str, what: str) -> None:
        """Assert an invariant that depends on time while clocks keep within the allowance; else count it."""
        if self._honest:
            raise Violation(invariant, what)
        self._tally.broken[invariant] += 1


def _ignore(_place: Place) -> None:
    pass


def _nothing() -> None:
    pass


def _committed(shard: Shard) -> int:
    """Return a shard's allowed connections, or those in use if that is more."""
    return max(shard.allowed, shard.allowed - shard.remaining)


def end_ms(record: str) -> int:
    number = 0
    for digit in record[:7]:
        number = number * 64 + _DIGITS[digit]
    return number


def connections(record: str) -> int:
    return _DIGITS[record[7]] * 64 + _DIGITS[record[8]]


def tag(record: str) -> str:
    return record[9:]
