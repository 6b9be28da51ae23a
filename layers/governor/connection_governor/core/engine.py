"""A holder's verbs: acquire, renew, release. The rules decide and a store writes, with bounded retries."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from connection_governor.core import checks, rules
from connection_governor.core.acquisition import AcquireCall, Acquisition
from connection_governor.core.lease import (
    Grant,
    Lease,
    Refusal,
    Renewal,
    Settings,
    Shard,
    ShardKey,
    holder_tag,
    pack_record,
    record_expiry_ms,
)
from connection_governor.core.retry import ACQUIRING, RELEASING, Doubt, Retry
from connection_governor.core.shard_stats import ShardStats
from connection_governor.core.store import Unwritten, Written
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, InvalidRequest, UnknownDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Wanted
    from connection_governor.core.opening import Pace
    from connection_governor.core.rules import OtherPlan, TooFast
    from connection_governor.core.store import LeaseStore

T = TypeVar("T")

SETTINGS_KEPT_MS = 60_000
SETTLE_EACH_MS = 10_000
RENEWS_OUTRUN = 4  # how many renews a release catches up with: each refused write shows the newest record


class Engine:
    """Grants, renews and releases leases.

    Args:
        store: where the leases are.
        clock: the time that is written into leases.
        entropy: where lease ids and jitter come from.
        least_skew_ms: judge others' leases with at least this allowance for clocks, even if the settings name less.
        clock_error_ms: by how much the clock is certainly ahead of the store's; negative: behind.
    """

    def __init__(
        self,
        store: LeaseStore,
        clock: Clock,
        entropy: Entropy,
        *,
        least_skew_ms: int = 0,
        clock_error_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._least_skew_ms = least_skew_ms
        self._clock_error_ms = clock_error_ms
        self._agreed_skew_ms: dict[str, int] = {}
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._retry = Retry(clock, entropy)
        self._stats = ShardStats()
        self._settings: dict[str, tuple[Settings, int]] = {}
        self._paces: dict[str, Pace] = {}
        self._settled_at_ms: dict[str, int] = {}

    def settings(self, database: str, *, deadline: Deadline | None = None, fresh: bool = False) -> Settings:
        """Return the database's settings, at most a minute old; no request for them outlasts the deadline.

        `fresh`: as of now.

        Raises:
            UnknownDatabase: no budget was ever set for it.
            GovernorUnavailable: the store could not be reached.
        """
        kept, read_at_ms = self._settings.get(database, (None, 0))
        now_ms = self._clock.now_ms()
        if kept is not None and 0 <= now_ms - read_at_ms < SETTINGS_KEPT_MS and not fresh:
            return kept
        store = self._store.within(deadline)
        settings = self._retry(lambda: store.settings(database, consistent=fresh), ACQUIRING, deadline)
        if settings is None:
            raise UnknownDatabase(database)
        self._agreed_skew_ms[database] = settings.skew_ms
        if settings.opens_per_second:
            from connection_governor.core.opening import pace_of  # noqa: PLC0415 - few databases have a rate

            self._paces[database] = pace_of(settings)  # by the agreed allowance for clocks, as all others do
        settings = replace(settings, skew_ms=max(settings.skew_ms, self._least_skew_ms))
        self._settings[database] = (settings, now_ms)
        return settings

    def agreed_skew_ms(self, database: str, *, deadline: Deadline | None = None) -> int:
        """Return the allowance for clocks in the settings, which all writers of leases share. Raises as `settings`."""
        self.settings(database, deadline=deadline)
        return self._agreed_skew_ms[database]

    def known_settings(self, database: str) -> Settings | None:
        """Return the database's settings as last read, however old; send no request."""
        return self._settings.get(database, (None, 0))[0]

    def acquire(
        self,
        wanted: Wanted,
        *,
        look_first: bool = False,
        last: bool | None = None,
        deadline: Deadline | None = None,
        again: bool = False,
    ) -> Grant | Refusal:
        """Grant a lease, or refuse, in one pass over the shards: a caller that waits calls again.

        Args:
            wanted: the lease asked for; its id must be new.
            look_first: read before writing, and write only where that shows room: for callers that were refused and
                wait. Their grant carries a mark, which other environments see as pressure.
            last: whether the caller's wait ends with this pass. While it can call again, a pass reads a few shards and
                writes to one; only the last pass checks all. None: the caller is not in this process, and may
                repeat a pass.
            deadline: no request outlasts it.
            again: a budget change was met and caught up with: this is the second pass, and the last.

        Raises:
            InvalidRequest: more connections than a shard can ever grant, an id that is in use, or a wrong clock.
            UnknownDatabase: no budget was ever set for it.
            GovernorUnavailable: the store could not be reached within bounded retries.
        """
        asked, settings = wanted, self.settings(wanted.database, deadline=deadline)
        self._check_clock(wanted.database)
        smallest = rules.share(settings.allowed, settings.shards, settings.shards - 1)
        pace = None
        if settings.opens_per_second:
            pace = self._paces[wanted.database]
            smallest, wanted = self._paced(smallest, pace, wanted)
        checks.connection_count(wanted.connections, most=max(1, smallest))
        order = [ShardKey(wanted.database, index) for index in rules.shard_order(wanted.lease_id, settings.shards)]
        call = AcquireCall(settings, wanted, has_waited=look_first, last=last, deadline=deadline, pace=pace)
        acquisition = Acquisition(self._store, self._clock, self._retry, self._stats, call)
        grant = acquisition.run(order)
        if grant is None and acquisition.other_plan is not None and not again:
            self._catch_up(settings, acquisition.other_plan, deadline)
            return self.acquire(asked, look_first=look_first, last=last, deadline=deadline, again=True)
        if grant is None:
            self._look_after(settings, acquisition.full_shards, missed=acquisition.missed, deadline=deadline)
            return self._refusal(settings, acquisition.full_shards, acquisition.too_fast.values())
        try:
            self._check_clock(wanted.database)  # it may have become wrong meanwhile, as after a freeze
        except InvalidRequest:
            self.release(grant.lease, deadline=deadline)
            raise
        return grant

    def _paced(self, smallest: int, pace: Pace, wanted: Wanted) -> tuple[int, Wanted]:
        """Return how many connections a lease may have, and a lease that also lasts while its holder has to wait."""
        wait_ms = pace.longest_wait_ms(wanted.wait_ms)
        wanted = replace(wanted, expires_at_ms=wanted.expires_at_ms + wait_ms, wait_ms=wait_ms)
        return min(smallest, pace.most_connections), wanted

    def _catch_up(self, settings: Settings, other: OtherPlan, deadline: Deadline | None) -> None:
        """Bring settings and shards to one plan: a shard grants only to callers that know its pace."""
        if other.is_newer:
            self.settings(settings.database, deadline=deadline, fresh=True)
            return
        from connection_governor.core.apply_plan import PlanExecutor  # noqa: PLC0415 - as below

        with suppress(GovernorUnavailable):
            PlanExecutor(self._store, self._clock, self._retry, deadline).apply(settings)

    def _check_clock(self, database: str) -> None:
        """Refuse to write an expiry by a clock that is known to be wrong: others would take the lease over early."""
        error_ms = self._clock_error_ms()
        if error_ms and abs(error_ms) > self._agreed_skew_ms.get(database, abs(error_ms)):
            where = "ahead of" if error_ms > 0 else "behind"
            raise InvalidRequest("clock", f"this machine's clock is {abs(error_ms)} ms {where} DynamoDB's: set it")

    def renew(
        self, lease: Lease, *, expires_at_ms: int, any_end: bool = False, deadline: Deadline | None = None
    ) -> Renewal | Refusal | None:
        """Move the lease's expiry to `expires_at_ms`; never shorten it.

        A renew whose answer was lost may have moved the expiry already. This one then continues from the stored record.

        Args:
            lease: as its holder knows it.
            expires_at_ms: the new expiry.
            any_end: the caller gave a length, so a later expiry than that of `lease` counts as this renew, repeated.
            deadline: no request outlasts it.

        Returns:
            The lease with its new expiry; None if it is no longer held, or has expired. A refusal if a lowered budget
            is overdrawn: the lease then stays as it is until it expires, and may still be released.

        Raises:
            GovernorUnavailable: the store could not be reached; whether the lease was renewed is unknown.
        """
        self._check_clock(lease.database)
        end_ms = max(expires_at_ms, lease.expires_at_ms)
        wanted, record = pack_record(end_ms, lease.connections, holder_tag(lease.holder)), lease.record
        for _ in range(RENEWS_OUTRUN):
            outcome = self._renew_once(lease, record, wanted, deadline)
            now_ms = self._clock.now_ms()
            if isinstance(outcome, Written):
                return Renewal(replace(lease, expires_at_ms=end_ms), rules.is_pressed(outcome, now_ms=now_ms))
            decision = rules.after_refused_renew(
                outcome.shard, lease.lease_id, record, wanted, now_ms=now_ms, any_end=any_end
            )
            if isinstance(decision, rules.RenewFrom):
                record = decision.record
                continue
            if outcome.shard is None or isinstance(decision, rules.NotHeld):
                return None
            if isinstance(decision, rules.Full):
                return self._refusal(self.settings(lease.database, deadline=deadline), [outcome.shard])
            return Renewal(
                replace(lease, expires_at_ms=decision.expires_at_ms), rules.is_pressed(outcome.shard, now_ms=now_ms)
            )
        return None

    def _renew_once(self, lease: Lease, record: str, wanted: str, deadline: Deadline | None) -> Written | Unwritten:
        """Write the renewal; past the expiry that the holder knows only read, since that record is never renewed."""
        store = self._store.within(deadline)
        if record_expiry_ms(record) < self._clock.now_ms():
            (shard,) = self._retry(partial(store.read, [lease.key], consistent=True), RELEASING, deadline)
            return Unwritten(shard)
        return self._retry(partial(store.renew, lease.key, lease.lease_id, record, wanted), RELEASING, deadline)

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> Written | None:
        """Release the lease, also if a renew has moved its expiry since; no request outlasts the deadline.

        Returns:
            The shard's counter after it; None if the lease was no longer held (also after a lost answer).

        Raises:
            GovernorUnavailable: the store could not be reached; the lease then expires.
        """
        return self._release(lease, Doubt(), deadline)

    def release_first(
        self, leases: Sequence[Lease], *, deadline: Deadline | None = None
    ) -> tuple[Lease, Written | None] | None:
        """Release the first of these leases that is still held: at most one, also if an answer was lost.

        Returns:
            The lease, with its shard's counter after it (None if only a lost answer could show it); None if no lease
            was held any more.

        Raises:
            GovernorUnavailable: the store could not be reached; whether a lease was released is unknown.
        """
        for lease in leases:
            doubt = Doubt()
            counter = self._release(lease, doubt, deadline)
            if counter is not None or doubt.exists:
                return lease, counter
        return None

    def _release(self, lease: Lease, doubt: Doubt, deadline: Deadline | None) -> Written | None:
        record: str | None = lease.record
        for _ in range(RENEWS_OUTRUN):
            if record is None:
                break
            remove = partial(self._store.within(deadline).remove, lease.key, ((lease.lease_id, record),))
            outcome = self._retry(partial(doubt.of, remove), RELEASING, deadline)
            if isinstance(outcome, Written):
                return outcome
            doubt.exists = doubt.exists or outcome.perhaps_applied
            record = rules.renewed_since(outcome.shard, lease.lease_id, record)
        return None

    def _look_after(
        self, settings: Settings, seen: Sequence[Shard], *, missed: bool, deadline: Deadline | None
    ) -> None:
        """Finish a budget change that a refusal shows to be unfinished: its capacity then needs no janitor.

        Expired leases of a retired shard block only the plan: no acquire visits that shard.
        """
        from connection_governor.core import plan  # noqa: PLC0415 - workers that are granted a lease need neither
        from connection_governor.core.apply_plan import PlanExecutor  # noqa: PLC0415 - as above

        database, now_ms = settings.database, self._clock.now_ms()
        if any(shard.plan > settings.plan for shard in seen):
            self._settings.pop(database, None)  # the shards carry a newer plan than the settings known here
            return
        short = missed or any(plan.is_short(shard, settings) for shard in seen)
        just_settled = 0 <= now_ms - self._settled_at_ms.get(database, -SETTLE_EACH_MS) < SETTLE_EACH_MS
        if short and not just_settled:
            self._settled_at_ms[database] = now_ms
            with suppress(GovernorUnavailable):  # a worker may lack the permission to create shards: others have it
                PlanExecutor(self._store, self._clock, self._retry, deadline).apply(settings)

    def _refusal(self, settings: Settings, seen: Sequence[Shard], too_fast: Collection[TooFast] = ()) -> Refusal:
        now_ms = self._clock.now_ms()
        turnover = sum(self._stats.per_second(shard.key) for shard in seen)
        allowed, in_use, estimated = rules.totals(settings, sum(s.allowed for s in seen), sum(s.in_use for s in seen))
        retry_ms = rules.retry_after_ms(seen, now_ms=now_ms, skew_ms=settings.skew_ms, turnover_per_s=turnover)
        if too_fast:
            retry_ms = rules.retry_too_fast_ms([one.wait_ms for one in too_fast], self._entropy.fraction())
        return Refusal(
            retry_after_ms=retry_ms,
            allowed=allowed,
            in_use=in_use,
            remaining=allowed - in_use,
            estimated=estimated,
            too_fast=bool(too_fast),
        )
