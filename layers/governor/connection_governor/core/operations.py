"""The operators' and the janitor's work: set a budget, finish a plan, reclaim expired leases, show the status."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connection_governor.core import checks, opening, plan, rules
from connection_governor.core.apply_plan import PlanExecutor
from connection_governor.core.lease import Settings
from connection_governor.core.retry import RELEASING, Retry
from connection_governor.core.status import Status
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, InvalidRequest, UnknownDatabase

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Lease, Shard
    from connection_governor.core.store import LeaseStore

_LENGTHS = {
    "lease_ms": (checks.MIN_LEASE_MS, checks.MAX_LEASE_MS),
    "skew_ms": (0, checks.MAX_SKEW_MS),
    "anonymous_lease_ms": (checks.MIN_LEASE_MS, checks.MAX_LEASE_MS),
    "opens_per_second": (0, checks.MAX_OPENS_PER_SECOND),
    "open_burst": (0, checks.MAX_OPEN_BURST),
}
_PACE = ("opens_per_second", "open_burst", "shards", "skew_ms")  # on these a shard's pace depends
ROUNDS = 20  # lost races with other operators before giving up


class Operations:
    """The operator's commands over a store.

    Args:
        store: where the leases are.
        clock: judges which leases have expired.
        entropy: jitter for retries.
    """

    def __init__(self, store: LeaseStore, clock: Clock, entropy: Entropy) -> None:
        self._store = store
        self._clock = clock
        self._retry = Retry(clock, entropy)
        self._plans = PlanExecutor(store, clock, self._retry)

    def status(self, database: str, *, deadline: Deadline | None = None) -> Status:
        """Return everything about a database, exact as of the read; no request outlasts the deadline.

        Raises:
            InvalidRequest: not a database's name.
            UnknownDatabase: no budget was ever set for it.
            GovernorUnavailable: the store could not be reached.
        """
        plans = self._plans.within(deadline)
        settings = plans.settings(checks.database_name(database))
        if settings is None:
            raise UnknownDatabase(database)
        return Status(settings, tuple(shard for shard in plans.read(settings) if shard is not None))

    def set_budget(
        self,
        database: str,
        allowed: int,
        *,
        shards: int | None = None,
        lease_ms: int | None = None,
        skew_ms: int | None = None,
        anonymous_lease_ms: int | None = None,
        opens_per_second: int | None = None,
        open_burst: int | None = None,
    ) -> Status:
        """Create or change a database's budget; settings left out stay as they are (shards: follow from the budget).

        Lowering stops grants above each shard's new share at once and disconnects no session. Raising hands out only
        what has come back; what has to wait (`settled` is False) is finished by the janitor or the next change.
        `opens_per_second` and `open_burst` limit how fast connections are granted: see `opening`; 0: no limit.

        Raises:
            InvalidRequest: a value out of its bounds; nothing was written.
            GovernorUnavailable: the store could not be reached, or other operators were always faster.
        """
        lengths = {"lease_ms": lease_ms, "skew_ms": skew_ms, "anonymous_lease_ms": anonymous_lease_ms}
        rate = {"opens_per_second": opens_per_second, "open_burst": open_burst}
        check_budget(database, allowed, shards=shards, **lengths, **rate)
        for _ in range(ROUNDS):
            stored = self._plans.settings(database)
            base = self._base(database, stored)
            wanted = replace(
                base,
                allowed=allowed,
                shards=shards or rules.shards_for(allowed),
                lease_ms=lease_ms or base.lease_ms,
                skew_ms=base.skew_ms if skew_ms is None else skew_ms,
                anonymous_lease_ms=anonymous_lease_ms or base.anonymous_lease_ms,
            )
            wanted = _with_rate(wanted, opens_per_second, open_burst)
            if wanted == stored:
                return self.settle(stored)
            numbered = replace(wanted, plan=base.plan + 1, shards_made=max(base.shards_made, wanted.shards))
            if not wanted.opens_per_second:
                numbered = replace(numbered, rate_plan=0)
            elif stored is None or base.plan != stored.plan or not _same_pace(wanted, stored):
                numbered = replace(numbered, rate_plan=numbered.plan)
            plan_as_read = stored.plan if stored else None
            save = partial(self._store.save_settings, numbered, plan_as_read=plan_as_read)
            if self._retry(save, RELEASING):
                return self.settle(numbered)
        raise GovernorUnavailable(f"other operators kept changing the budget of {database!r}")

    def adopt(
        self, database: str, allowed: int, *, longest_lease_ms: int = checks.MAX_LEASE_MS, shards: int | None = None
    ) -> Status:
        """Set the budget of a database that was restored from a backup, once no lease that the backup lacks can last.

        Closes the database (a budget of 0), waits, and then sets the budget. A caller that is stopped in between leaves
        it closed.

        Args:
            database: its name.
            allowed: the budget to set.
            longest_lease_ms: how long a lease that was granted after the backup may last.
            shards: as for `set_budget`.

        Raises:
            As `set_budget`.
        """
        check_budget(database, allowed, shards=shards)
        checks.whole_number("longest_lease_ms", longest_lease_ms, least=0, most=checks.MAX_LEASE_MS)
        closed = self.set_budget(database, 0)
        if not closed.settled:
            raise GovernorUnavailable(f"{database!r} could not be closed on every shard: adopt it again")
        self._clock.sleep((longest_lease_ms + closed.settings.skew_ms) / 1_000)
        return self.set_budget(database, allowed, shards=shards)

    def _base(self, database: str, stored: Settings | None) -> Settings:
        """Return the settings to continue from: the stored ones, with the highest plan that any shard carries.

        If the settings item was deleted or restored, the shards are ahead of it, and would obey no lower plan.
        """
        if stored is not None and not plan.is_superseded(self._shards(stored), stored):
            return stored
        found = self._plans.find(database)
        base = stored or Settings(database, 0, shards=1, plan=0, shards_made=0)
        return replace(
            base,
            plan=max([base.plan, *(shard.plan for shard in found)]),
            shards_made=max([base.shards_made, *(shard.key.index + 1 for shard in found)]),
        )

    def _shards(self, settings: Settings) -> list[Shard]:
        return [shard for shard in self._plans.read(settings) if shard is not None]

    def settle(self, settings: Settings) -> Status:
        """Bring every shard to the plan in `settings`, as far as capacity has come back; any executor may repeat it."""
        self._plans.apply(settings)
        return self.status(settings.database)

    def reclaim(self, database: str) -> list[Lease]:
        """Reclaim every lease that is past its expiry and the allowance for clocks; return the reclaimed leases."""
        return self._plans.reclaim(self.status(database).settings)


def check_budget(database: str, allowed: int, *, shards: int | None = None, **lengths: int | None) -> None:
    """Raise `InvalidRequest` if `set_budget` would refuse these values."""
    checks.database_name(database)
    checks.whole_number("allowed", allowed, least=0, most=checks.MAX_BUDGET)
    for field, length in lengths.items():
        if length is not None:
            least, most = _LENGTHS[field]
            checks.whole_number(field, length, least=least, most=most)
    if shards is not None:
        _check_shards(shards, allowed)


def _with_rate(settings: Settings, per_second: int | None, burst: int | None) -> Settings:
    """Return the settings with this opening rate and burst; None: the stored ones, or for the burst the usual one.

    Raises:
        InvalidRequest: a burst with which not every shard could grant.
    """
    rate = settings.opens_per_second if per_second is None else per_second
    if not rate:
        if burst:
            raise InvalidRequest("open_burst", "needs an opens_per_second")
        return replace(settings, opens_per_second=0, open_burst=0)
    if burst is None:
        burst = settings.open_burst if rate == settings.opens_per_second else 0
    burst = burst or opening.usual_burst(rate, shards=settings.shards, skew_ms=settings.skew_ms)
    least = opening.least_burst(rate, shards=settings.shards, skew_ms=settings.skew_ms)
    if burst < least:
        parts = f"{settings.shards} shard(s), and {settings.skew_ms} ms that clocks may differ"
        raise InvalidRequest("open_burst", f"must be {least} or more with {rate} a second, {parts}")
    return replace(settings, opens_per_second=rate, open_burst=burst)


def _same_pace(one: Settings, other: Settings) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _PACE)


def _check_shards(shards: int, allowed: int) -> None:
    checks.whole_number("shards", shards, least=1, most=checks.MAX_SHARDS)
    fewest, most = rules.shard_bounds(allowed)
    if shards < fewest:
        raise InvalidRequest("shards", f"must be {fewest} or more: one shard holds at most {rules.MOST_PER_SHARD}")
    if shards > most:
        raise InvalidRequest("shards", f"must be {most} or fewer: each shard needs a connection to grant")
