"""One pass of one acquire over a database's shards: where to write blindly, where to look first, when to stop."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from connection_governor.core import rules
from connection_governor.core.lease import Grant, Shard, record_expiry_ms
from connection_governor.core.retry import TAKING
from connection_governor.core.store import Written
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Leases, Settings, ShardKey, Wanted
    from connection_governor.core.retry import Retry
    from connection_governor.core.shard_stats import Turnover
    from connection_governor.core.store import LeaseStore, Unwritten


T = TypeVar("T")

# Costs, in write units: a write 1, lost or not; a look 0.1. Measured by bench/overload.py.
LOOKS = 1  # shards that a newcomer who can come again looks at, beside the one it wrote to
RACES = 1  # writes that who waits loses after looks: by then, room that they showed elsewhere is gone, too
THROTTLED = 4  # shards that a newcomer tries in turn while it finds each throttled, which costs nothing
TRIES_ON_A_SHARD = 4  # each lost race shows the shard anew; past these, others are being served


class ThrottledError(Exception):
    """A shard is throttled, and nothing that was sent to it can have been applied: another one will do as well."""


class Tools(NamedTuple):
    """What every pass of an engine uses."""

    store: LeaseStore
    clock: Clock
    retry: Retry
    turnover: Turnover


class Attempt:
    """One pass of one acquire over the shards; `seen` collects the full ones, `missed` says that one does not exist."""

    def __init__(self, tools: Tools, settings: Settings, wanted: Wanted, until_ms: int | None, *, waited: bool) -> None:
        self._seen: dict[ShardKey, Shard] = {}
        self.missed = False
        self._store, self._clock, self._retry, self._turnover = tools
        self._settings = settings
        self._wanted = wanted
        self._until_ms = until_ms
        self._waited = waited
        self._may_leave = False
        self._again = waited if until_ms is None else self._clock.now_ms() < until_ms

    @property
    def seen(self) -> list[Shard]:
        """The full shards, as last seen."""
        return list(self._seen.values())

    def of_a_newcomer(self, keys: Sequence[ShardKey]) -> Grant | None:
        """Write to one shard without looking; look at others, and write where there is room."""
        others = list(keys)
        if grant := self._on_unthrottled(others):
            return grant
        if self._again:
            others = self._turnover.longest_unseen(others)[:LOOKS]
        return self._on_looks(others, races=RACES if self._again else len(others))

    def of_one_who_waits(self, keys: Sequence[ShardKey]) -> Grant | None:
        """Look at one shard; when the wait is over, at all that were not seen full in the meantime, at one at least."""
        if self._until_ms is not None:  # else a caller from afar may repeat this: it must find what it got here before
            keys = self._turnover.longest_unseen(keys)
        return self._on_looks(keys[:1] if self._again else self._not_seen_lately(keys) or keys[:1], races=RACES)

    def _on_unthrottled(self, keys: list[ShardKey]) -> Grant | None:
        """Write to the first of these that is not throttled, and take it off the list."""
        for at, key in enumerate(keys):
            self._may_leave = at + 1 < min(THROTTLED, len(keys))
            with suppress(ThrottledError):
                grant = self._on_shard(key)
                self._may_leave = False
                keys.remove(key)
                return grant
        raise AssertionError("unreachable: the last one tried is not left")

    def _not_seen_lately(self, keys: Sequence[ShardKey]) -> list[ShardKey]:
        """Those to look at again. Memory may refuse, never admit; and what has expired since is seen from memory."""
        unseen = []
        for key in keys:
            shard = self._turnover.seen_lately(key, now_ms=self._clock.now_ms())
            if shard is not None and isinstance(self._decide(shard), rules.Full):
                self._seen[key] = shard
            else:
                unseen.append(key)
        return unseen

    def _on_looks(self, keys: Sequence[ShardKey], *, races: int) -> Grant | None:
        """Read first: eventually consistent reads may refuse, never admit."""
        rooms = self._rooms(self._retrying(lambda: self._store.read(keys, consistent=False))) if keys else []
        for shard, taken in rooms[:races]:
            if grant := self._on_shard(shard.key, taken):
                return grant
        return None

    def _rooms(self, shards: Sequence[Shard | None]) -> list[tuple[Shard, Leases]]:
        """Where a write may succeed, the roomiest first, and what it would take over there."""
        rooms: list[tuple[Shard, Leases]] = []
        for shard in shards:
            step = self._decide(shard)
            if shard is None or isinstance(step, rules.NoSuchShard):
                self.missed = True
                continue
            if isinstance(step, rules.AlreadyGranted):
                return [(shard, ())]  # by an earlier try: the write will show it, and elsewhere there must be none
            taken = step.taken if isinstance(step, rules.Write) else ()
            if isinstance(step, rules.Full) or not (taken or self._is_worth_a_write(shard)):
                self._saw(shard)
            else:
                rooms.append((shard, taken))
        return sorted(rooms, key=lambda room: -room[0].remaining)

    def _is_worth_a_write(self, shard: Shard) -> bool:
        return not self._again or rules.will_last(shard, turnover_per_s=self._turnover.per_second(shard.key))

    def _saw(self, shard: Shard) -> None:
        self._seen[shard.key] = shard
        self._turnover.note(shard, now_ms=self._clock.now_ms())

    def _on_shard(self, key: ShardKey, taken: Leases = ()) -> Grant | None:
        shard: Shard | None = None
        given_back = 0
        for _ in range(TRIES_ON_A_SHARD):
            outcome = self._write(key, taken)
            if isinstance(outcome, Written):
                return self._granted(key, outcome, outcome.fence, expired=given_back + len(taken))
            shard = outcome.shard
            decision = self._decide(shard)
            if isinstance(decision, rules.AlreadyGranted) and shard is not None:
                return self._granted(key, shard, None)
            if isinstance(decision, rules.IdInUse):
                raise InvalidRequest("lease_id", "is in use: every acquire needs a new one")
            if isinstance(decision, rules.GiveBack):
                given_back += self._give_back(key, decision.taken)
            elif not isinstance(decision, rules.Write):
                break
            taken = decision.taken if isinstance(decision, rules.Write) else ()
        if shard is None:
            self.missed = True
        else:
            self._saw(shard)
        return None

    def _write(self, key: ShardKey, taken: Leases) -> Written | Unwritten:
        wanted = self._wanted
        waited = {"waited_ms": self._clock.now_ms()} if self._waited else {}

        def once() -> Written | Unwritten:
            try:
                return self._store.grant(key, wanted.lease_id, wanted.record, wanted.connections, taken, **waited)
            except GovernorUnavailable as error:
                if self._may_leave and error.throttled:
                    raise ThrottledError from error
                self._may_leave = False  # it may have been applied: from here on, this shard or none
                raise

        return self._retrying(once)

    def _give_back(self, key: ShardKey, over: Leases) -> int:
        """Free these; how many were."""
        freed = isinstance(self._retrying(lambda: self._store.give_back(key, over)), Written)
        return len(over) if freed else 0

    def _decide(self, shard: Shard | None) -> rules.NextStep:
        return rules.next_step(
            shard,
            self._wanted.lease_id,
            self._wanted.record,
            now_ms=self._clock.now_ms(),
            skew_ms=self._settings.skew_ms,
            any_end=self._wanted.any_end,
        )

    def _granted(self, key: ShardKey, shown: Written | Shard, fence: int | None, *, expired: int = 0) -> Grant:
        lease = self._wanted.lent_by(key, fence)
        if isinstance(shown, Shard):  # lent by an earlier try: what counts is the end that is stored
            lease = replace(lease, expires_at_ms=record_expiry_ms(shown.leases[lease.lease_id]))
        total, in_use, estimated = totals(self._settings, shown.allowed, shown.allowed - shown.remaining)
        return Grant(
            lease=lease,
            allowed=total,
            in_use=in_use,
            remaining=total - in_use,
            estimated=estimated,
            pressure=is_pressed(shown, self._clock.now_ms()),
            expired=expired,
        )

    def _retrying(self, call: Callable[[], T]) -> T:
        return self._retry(call, TAKING, until_ms=self._until_ms)


def totals(settings: Settings, allowed: int, in_use: int) -> tuple[int, int, bool]:
    """A database's (allowed, in use, whether estimated), from what was seen of its shards."""
    if settings.shards == 1:
        return allowed, in_use, False
    return settings.allowed, rules.scale(in_use, share_of=allowed, total=settings.allowed), True


def is_pressed(shown: Written | Shard, now_ms: int) -> bool:
    """Whether what a shard showed says that environments should give back what they could keep."""
    since_wait_ms = now_ms - shown.waited_ms if shown.waited_ms else None
    return rules.is_pressed(allowed=shown.allowed, remaining=shown.remaining, since_wait_ms=since_wait_ms)
