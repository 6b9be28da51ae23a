"""What a holder does: acquire, renew, release. Asks `decide` what to do and a store to do it, with bounded retries."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from connection_governor import checks, decide, plan
from connection_governor.errors import GovernorUnavailable, InvalidRequest, UnknownDatabase
from connection_governor.lease import (
    Grant,
    Lease,
    Refusal,
    Settings,
    Shard,
    ShardKey,
    holder_tag,
    pack_record,
)
from connection_governor.retry import GIVING_BACK, TAKING, Retry
from connection_governor.settlement import Settlement
from connection_governor.store import Written
from connection_governor.turnover import Turnover

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.clock import Clock
    from connection_governor.entropy import Entropy
    from connection_governor.lease import Lease, Leases, Wanted
    from connection_governor.store import LeaseStore, Unwritten

T = TypeVar("T")

SETTINGS_KEPT_MS = 60_000
SETTLE_EACH_MS = 10_000
TRIES_ON_A_SHARD = 4  # each lost race shows the shard anew; past these, others are being served


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewed lease, and whether its budget runs low."""

    lease: Lease
    pressure: bool


class Engine:
    """Lends, renews and takes back leases.

    Args:
        store: where the leases are.
        clock: tells the time that is written into leases.
        entropy: where lease ids and jitter come from.
    """

    def __init__(self, store: LeaseStore, clock: Clock, entropy: Entropy) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._retry = Retry(clock, entropy)
        self._turnover = Turnover()
        self._settlement = Settlement(store, clock, self._retry)
        self._settings: dict[str, tuple[Settings, int]] = {}
        self._settle_from_ms: dict[str, int] = {}

    def settings(self, database: str) -> Settings:
        """The database's settings, at most a minute old.

        Raises:
            UnknownDatabase: no budget was ever set for it.
            GovernorUnavailable: the store could not be reached.
        """
        kept, read_at_ms = self._settings.get(database, (None, 0))
        now_ms = self._clock.now_ms()
        if kept is not None and 0 <= now_ms - read_at_ms < SETTINGS_KEPT_MS:
            return kept
        settings = self._retry(lambda: self._store.settings(database, consistent=False), TAKING)
        if settings is None:
            raise UnknownDatabase(database)
        self._settings[database] = (settings, now_ms)
        return settings

    def known_settings(self, database: str) -> Settings | None:
        """The database's settings as last read, however long ago; no request."""
        return self._settings.get(database, (None, 0))[0]

    def acquire(self, wanted: Wanted, *, look_first: bool = False, until_ms: int | None = None) -> Grant | Refusal:
        """Lend connections, or say that none is left. One pass over the shards: whoever wants to wait calls again.

        Args:
            wanted: the lease asked for; its id must be new.
            look_first: read one shard, and write only where that shows room: for those who have been refused and
                wait. Their grant is marked as such, which others see as pressure.
            until_ms: start no retry later than this.

        Raises:
            InvalidRequest: more connections than a shard can ever lend, or an id that is in use.
            UnknownDatabase: no budget was ever set for it.
            GovernorUnavailable: the store could not be reached within bounded retries.
        """
        settings = self.settings(wanted.database)
        smallest = decide.share(settings.allowed, settings.shards, settings.shards - 1)
        checks.connection_count(wanted.connections, most=max(1, smallest))
        attempt = _Attempt(self._store, self._clock, self._retry, settings, wanted, until_ms, waited=look_first)
        keys = [ShardKey(wanted.database, index) for index in decide.shard_order(wanted.lease_id, settings.shards)]
        grant = attempt.on_looks(keys[:1]) if look_first else attempt.on_all(keys)
        if grant is None:
            self._look_after(settings, attempt.seen)
        return grant or self._refusal(settings, attempt.seen)

    def renew(self, lease: Lease, *, expires_at_ms: int) -> Renewal | Refusal | None:
        """Move the lease's end to `expires_at_ms`; never shortens it.

        Returns:
            The lease with its new end; None where it is not held any more, or past its end. A refusal where a lowered
            budget is overdrawn: the lease then stays as it is until its end, and may still be released.

        Raises:
            GovernorUnavailable: the store could not be reached: whether the lease was renewed is not known.
        """
        if lease.expires_at_ms < self._clock.now_ms():
            return None
        end_ms = max(expires_at_ms, lease.expires_at_ms)
        tag = holder_tag(lease.holder)
        renewed = pack_record(end_ms, lease.connections, tag)
        outcome = self._retry(lambda: self._store.renew(lease.key, lease.lease_id, lease.record, renewed), GIVING_BACK)
        if isinstance(outcome, Written):
            return Renewal(replace(lease, expires_at_ms=end_ms), _is_pressed(outcome, self._clock.now_ms()))
        decision = decide.after_refused_renew(outcome.shard, lease.lease_id, lease.record, renewed)
        if outcome.shard is None or isinstance(decision, decide.NotHeld):
            return None
        if isinstance(decision, decide.Full):
            return self._refusal(self.settings(lease.database), [outcome.shard])
        pressure = _is_pressed(outcome.shard, self._clock.now_ms())
        return Renewal(replace(lease, expires_at_ms=decision.expires_at_ms), pressure)

    def release(self, lease: Lease) -> Written | None:
        """Give the lease back, also where a renew has moved its end since.

        Returns:
            The shard's counter after it; None where the lease was not held any more (also after a lost answer).

        Raises:
            GovernorUnavailable: the store could not be reached; the lease then ends by itself.
        """
        record: str | None = lease.record
        for _ in range(TRIES_ON_A_SHARD):
            if record is None:
                break
            give_back = partial(self._store.give_back, lease.key, ((lease.lease_id, record),))
            outcome = self._retry(give_back, GIVING_BACK)
            if isinstance(outcome, Written):
                return outcome
            record = decide.renewed_since(outcome.shard, lease.lease_id, record)
        return None

    def _look_after(self, settings: Settings, seen: Sequence[Shard]) -> None:
        """Where a refusal shows that a budget change is unfinished, finish it: its capacity needs no janitor, either.

        The expired leases of a shard that no longer lends are in nobody's way but the plan's.
        """
        database, now_ms = settings.database, self._clock.now_ms()
        if any(shard.plan > settings.plan for shard in seen):
            self._settings.pop(database, None)  # the shards know of a newer plan than we do
        elif now_ms >= self._settle_from_ms.get(database, 0) and any(plan.is_short(s, settings) for s in seen):
            self._settle_from_ms[database] = now_ms + SETTLE_EACH_MS
            with suppress(GovernorUnavailable):  # a worker may lack the right to create shards: others have it
                self._settlement.settle(settings)

    def _refusal(self, settings: Settings, seen: Sequence[Shard]) -> Refusal:
        now_ms = self._clock.now_ms()
        for shard in seen:
            self._turnover.note(shard, now_ms=now_ms)
        turnover = sum(self._turnover.per_second(shard.key) for shard in seen)
        allowed, in_use, estimated = totals(settings, sum(s.allowed for s in seen), sum(s.in_use for s in seen))
        return Refusal(
            retry_after_ms=decide.retry_after_ms(seen, now_ms=now_ms, turnover_per_s=turnover),
            allowed=allowed,
            in_use=in_use,
            remaining=allowed - in_use,
            estimated=estimated,
        )


class _Attempt:
    """One pass of one acquire over the shards; `seen` collects the full ones."""

    def __init__(
        self,
        store: LeaseStore,
        clock: Clock,
        retry: Retry,
        settings: Settings,
        wanted: Wanted,
        until_ms: int | None,
        *,
        waited: bool,
    ) -> None:
        self.seen: list[Shard] = []
        self._waited = waited
        self._store = store
        self._clock = clock
        self._retry = retry
        self._settings = settings
        self._wanted = wanted
        self._until_ms = until_ms

    def on_all(self, keys: Sequence[ShardKey]) -> Grant | None:
        """Write to the first shard without looking; look at the others, and write where there is room."""
        return self._on_shard(keys[0]) or (self.on_looks(keys[1:]) if keys[1:] else None)

    def on_looks(self, keys: Sequence[ShardKey]) -> Grant | None:
        """Read first: eventually consistent reads may refuse, never admit."""
        for shard in self._retrying(lambda: self._store.read(keys, consistent=False)):
            step = self._decide(shard)
            if shard is None or isinstance(step, decide.NoSuchShard):
                continue
            if isinstance(step, decide.Full):
                self.seen.append(shard)
            elif grant := self._on_shard(shard.key, step.taken if isinstance(step, decide.Write) else ()):
                return grant
        return None

    def _on_shard(self, key: ShardKey, taken: Leases = ()) -> Grant | None:
        shard: Shard | None = None
        for _ in range(TRIES_ON_A_SHARD):
            outcome = self._write(key, taken)
            if isinstance(outcome, Written):
                return self._granted(key, outcome, outcome.fence)
            shard = outcome.shard
            decision = self._decide(shard)
            if isinstance(decision, decide.AlreadyGranted) and shard is not None:
                return self._granted(key, shard, None)
            if isinstance(decision, decide.IdInUse):
                raise InvalidRequest("lease_id", "is in use: every acquire needs a new one")
            if isinstance(decision, decide.GiveBack):
                self._give_back(key, decision.taken)
            elif not isinstance(decision, decide.Write):
                break
            taken = decision.taken if isinstance(decision, decide.Write) else ()
        if shard is not None:
            self.seen.append(shard)
        return None

    def _write(self, key: ShardKey, taken: Leases) -> Written | Unwritten:
        wanted, store = self._wanted, self._store
        if not self._waited:
            return self._retrying(lambda: store.grant(key, wanted.lease_id, wanted.record, wanted.connections, taken))
        now_ms = self._clock.now_ms()
        return self._retrying(
            lambda: store.grant(key, wanted.lease_id, wanted.record, wanted.connections, taken, waited_ms=now_ms)
        )

    def _give_back(self, key: ShardKey, over: Leases) -> None:
        self._retrying(lambda: self._store.give_back(key, over))

    def _decide(self, shard: Shard | None) -> decide.NextStep:
        return decide.after_refused_grant(
            shard,
            self._wanted.lease_id,
            self._wanted.record,
            now_ms=self._clock.now_ms(),
            skew_ms=self._settings.skew_ms,
        )

    def _granted(self, key: ShardKey, shown: Written | Shard, fence: int | None) -> Grant:
        total, in_use, estimated = totals(self._settings, shown.allowed, shown.allowed - shown.remaining)
        return Grant(
            lease=self._wanted.lent_by(key, fence),
            allowed=total,
            in_use=in_use,
            remaining=total - in_use,
            estimated=estimated,
            pressure=_is_pressed(shown, self._clock.now_ms()),
        )

    def _retrying(self, call: Callable[[], T]) -> T:
        return self._retry(call, TAKING, until_ms=self._until_ms)


def totals(settings: Settings, allowed: int, in_use: int) -> tuple[int, int, bool]:
    """A database's (allowed, in use, whether estimated), from what was seen of its shards."""
    if settings.shards == 1:
        return allowed, in_use, False
    return settings.allowed, decide.scale(in_use, share_of=allowed, total=settings.allowed), True


def _is_pressed(shown: Written | Shard, now_ms: int) -> bool:
    since_wait_ms = now_ms - shown.waited_ms if shown.waited_ms else None
    return decide.is_pressed(allowed=shown.allowed, remaining=shown.remaining, since_wait_ms=since_wait_ms)
