"""One pass of one acquire over a database's shards: carry out the moves that `placement` chooses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from connection_governor.core import placement, rules
from connection_governor.core.lease import Grant, Shard, record_expiry_ms, session_name
from connection_governor.core.reading import Reading
from connection_governor.core.retry import ACQUIRING, Doubt
from connection_governor.core.store import Written
from connection_governor.core.values import dataclass, replace
from connection_governor.errors import GovernorUnavailable, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Leases, Settings, ShardKey, Wanted
    from connection_governor.core.opening import Opening, Pace
    from connection_governor.core.retry import Retry
    from connection_governor.core.shard_stats import ShardStats
    from connection_governor.core.store import LeaseStore, Unwritten

T = TypeVar("T")

RACES_ON_A_SHARD = 4  # each lost race shows the shard anew; after these, other callers are being served


@dataclass(frozen=True, slots=True)
class AcquireCall:
    """One call of `Engine.acquire`, with its settings.

    Attributes:
        settings: the database's.
        wanted: the lease asked for.
        has_waited: whether the caller was refused before.
        last: whether the caller's wait ends with this call; None: the caller is not in this process.
        deadline: no request outlasts it.
        pace: of each shard, where the opening rate is limited.
    """

    settings: Settings
    wanted: Wanted
    has_waited: bool
    last: bool | None
    deadline: Deadline | None
    pace: Pace | None = None


class _ShardThrottledError(Exception):
    """The shard is throttled, and nothing sent to it can have been applied: another one will do as well."""


class Acquisition:
    """One pass.

    Args:
        store: where the shards are.
        clock: judges which leases have expired.
        retry: repeats failed requests.
        stats: what this environment remembers of full shards.
        call: what is asked for.

    Attributes:
        missed: whether a shard of the settings does not exist.
        too_fast: the shards that had room and no token, with the time until one is due.
        other_plan: a shard with another pace than the settings known here, if one was met.
    """

    def __init__(self, store: LeaseStore, clock: Clock, retry: Retry, stats: ShardStats, call: AcquireCall) -> None:
        self._store = store.within(call.deadline)
        self._clock = clock
        self._retry = retry
        self._stats = stats
        self._call = call
        self._full: dict[ShardKey, Shard] = {}
        self.missed = False
        self.too_fast: dict[ShardKey, rules.TooFast] = {}
        self.other_plan: rules.OtherPlan | None = None
        self._guesses_full = call.pace is not None and not call.has_waited and call.wanted.database in stats.refilled
        self._comes_again = call.has_waited if call.last is None else not call.last

    @property
    def full_shards(self) -> list[Shard]:
        """The shards that had no room, as last seen."""
        return list(self._full.values())

    def run(self, order: Sequence[ShardKey]) -> Grant | None:
        """Return the grant, or None if no shard that the pass may visit has room.

        Args:
            order: the database's shards in the order of the lease id.

        Raises:
            InvalidRequest: the lease id is in use.
            GovernorUnavailable: the store could not be reached.
        """
        if self._call.has_waited:
            return self._continued(order, placement.NOTHING_SEEN)
        grant, seen = self._written(placement.first_write(order), placement.NOTHING_SEEN)
        return grant or self._continued(order, seen)  # most passes end here, and need no policy

    def _continued(self, order: Sequence[ShardKey], seen: placement.Seen) -> Grant | None:
        policy = self._policy(order)
        while not isinstance(move := placement.next_move(seen, policy), placement.Stop):
            if isinstance(move, placement.Read):
                seen = seen.after_read(self._rooms(move.keys))
                continue
            grant, seen = self._written(move, seen)
            if grant:
                return grant
        return None

    def _written(self, move: placement.Write, seen: placement.Seen) -> tuple[Grant | None, placement.Seen]:
        try:
            grant = self._on_shard(move)
        except _ShardThrottledError:
            return None, seen.after_throttled()
        return grant, seen if grant else seen.after_lost(move)

    def _policy(self, order: Sequence[ShardKey]) -> placement.Policy:
        by_age = self._stats.longest_unseen(order)
        if not self._call.has_waited:
            return placement.newcomer(order, by_age, comes_again=self._comes_again)
        if self._call.last is None:  # a caller of the function may repeat this: it must find what it was granted
            by_age = list(order)
        keys = by_age if self._comes_again else self._not_seen_full_lately(by_age) or by_age[:1]
        return placement.waiting(keys, comes_again=self._comes_again)

    def _not_seen_full_lately(self, keys: Sequence[ShardKey]) -> list[ShardKey]:
        """Return the shards to read again. Memory may refuse, never admit; it also shows what has expired since."""
        unseen = []
        for key in keys:
            shard = self._stats.seen_lately(key, now_ms=self._clock.now_ms())
            if shard is not None and isinstance(self._decide(shard), rules.Full):
                self._full[key] = shard
            else:
                unseen.append(key)
        return unseen

    def _rooms(self, keys: Sequence[ShardKey]) -> list[placement.Write]:
        """Read these shards, and return the writes that may succeed, the roomiest shard first."""
        shards = self._retrying(Reading(self._store, keys, consistent=False))
        rooms: list[tuple[int, placement.Write]] = []
        for shard in shards:
            step = self._decide(shard)
            if shard is None or isinstance(step, rules.NoSuchShard):
                self.missed = True
            elif isinstance(step, rules.AlreadyGranted):  # by an earlier try: a write elsewhere would grant twice
                return [placement.Write(shard.key)]
            elif self._is_worth_a_write(shard, step):
                taken, slack_us = (step.taken, step.slack_us) if isinstance(step, rules.Write) else ((), None)
                rooms.append((shard.remaining, placement.Write(shard.key, taken, slack_us=slack_us)))
            else:
                self._note_full(shard)
        return [write for _, write in sorted(rooms, key=lambda room: -room[0])]

    def _is_worth_a_write(self, shard: Shard, step: rules.NextStep) -> bool:
        has_room = isinstance(step, rules.Write) and not step.taken
        if has_room and self._comes_again:
            return rules.will_last(shard, turnover_per_s=self._stats.per_second(shard.key))
        return not isinstance(step, rules.Full | rules.TooFast | rules.OtherPlan)

    def _note_full(self, shard: Shard) -> None:
        self._full[shard.key] = shard
        self._stats.note(shard, now_ms=self._clock.now_ms())

    def _on_shard(self, move: placement.Write) -> Grant | None:
        """Write until the shard grants, or shows that it cannot."""
        key, taken, slack_us, doubt = move.key, move.taken, move.slack_us, Doubt()
        ended: Leases = ()  # only what is known to be removed: a session of theirs may be ended
        if self._guesses_full:
            slack_us, self._guesses_full = 0, False
        for _ in range(RACES_ON_A_SHARD):
            outcome = self._write(key, taken, slack_us, doubt, may_leave=move.may_leave)
            if isinstance(outcome, Written):
                if self._call.pace is not None:
                    self._stats.note_opening(self._call.wanted.database, was_full=slack_us is not None)
                return self._granted(key, outcome, outcome.fence, ended=ended + taken)
            shard, step, freed = self._freed(outcome.shard)
            ended += freed
            if isinstance(step, rules.AlreadyGranted) and shard is not None:
                return self._granted(key, shard, None, ended=ended + rules.removed(taken, shard))
            if isinstance(step, rules.IdInUse):
                raise InvalidRequest("lease_id", "is in use: every acquire needs a new one")
            if not isinstance(step, rules.Write):
                break
            taken, slack_us = step.taken, step.slack_us
        if shard is None:
            self.missed = True
        else:
            self._note_full(shard)
        return None

    def _freed(self, shard: Shard | None) -> tuple[Shard | None, rules.NextStep, Leases]:
        """Reclaim expired leases until one write can take over the rest; return those that were reclaimed."""
        freed: Leases = ()
        lost = 0
        while isinstance(step := self._decide(shard), rules.Reclaim) and shard is not None and lost < RACES_ON_A_SHARD:
            outcome = self._retrying(partial(self._store.remove, shard.key, step.taken))
            if isinstance(outcome, Written):
                freed += step.taken
                shard = shard.without(step.taken, remaining=outcome.remaining)
            else:
                lost += 1
                shard = outcome.shard
        return shard, step, freed

    def _write(
        self, key: ShardKey, taken: Leases, slack_us: int | None, doubt: Doubt, *, may_leave: bool
    ) -> Written | Unwritten:
        wanted, pace = self._call.wanted, self._call.pace
        waited_ms = self._clock.now_ms() if self._call.has_waited else None

        def once() -> Written | Unwritten:
            try:
                opens = None if pace is None else self._opening(pace, slack_us)  # by the time of this very try
                grant = partial(self._store.grant, key, wanted.lease_id, wanted.record, taken, waited_ms, opens)
                return doubt.of(grant)
            except GovernorUnavailable as error:
                if may_leave and not doubt.exists:  # else the write may have been applied: this shard or none
                    raise _ShardThrottledError from error
                raise

        return self._retrying(once)

    def _opening(self, pace: Pace, slack_us: int | None) -> Opening:
        connections, now_ms = self._call.wanted.connections, self._clock.now_ms()
        if slack_us is None:
            return pace.spending(connections, now_ms=now_ms, wait_ms=self._wait_ms())
        return pace.refilling(connections, now_ms=now_ms, slack_us=slack_us)

    def _wait_ms(self) -> int:
        """Return how long the caller can wait for a token, as of now."""
        most_ms, deadline = self._call.wanted.wait_ms, self._call.deadline
        return max(0, min(most_ms, deadline.left_ms())) if deadline is not None else most_ms

    def _decide(self, shard: Shard | None) -> rules.NextStep:
        step, pace = self._step(shard), self._call.pace
        if pace is None or shard is None or not isinstance(step, rules.Write):
            return step
        connections, now_ms = self._call.wanted.connections, self._clock.now_ms()
        step = pace.step(shard, step, connections, now_ms=now_ms, wait_ms=self._wait_ms())
        if isinstance(step, rules.TooFast):
            self.too_fast[shard.key] = step
        elif isinstance(step, rules.OtherPlan):
            self.other_plan = step
        return step

    def _step(self, shard: Shard | None) -> rules.NextStep:
        wanted = self._call.wanted
        return rules.next_step(
            shard,
            wanted.lease_id,
            wanted.record,
            now_ms=self._clock.now_ms(),
            skew_ms=self._call.settings.skew_ms,
            any_end=wanted.any_end,
        )

    def _granted(self, key: ShardKey, shown: Written | Shard, fence: int | None, *, ended: Leases) -> Grant:
        lease = self._call.wanted.granted_by(key, fence)
        if ended:
            lease = replace(lease, taken_over=tuple(session_name(lease_id, key) for lease_id, _ in ended))
        if isinstance(shown, Shard):  # granted by an earlier try: the stored expiry counts
            lease = replace(lease, expires_at_ms=record_expiry_ms(shown.leases[lease.lease_id]))
        total, in_use, estimated = rules.totals(self._call.settings, shown.allowed, shown.allowed - shown.remaining)
        return Grant(
            lease=lease,
            allowed=total,
            in_use=in_use,
            remaining=total - in_use,
            estimated=estimated,
            pressure=rules.is_pressed(shown, now_ms=self._clock.now_ms()),
            expired=len(ended),
            open_in_ms=0 if self._call.pace is None else rules.open_in_ms(shown.opens_us, now_ms=self._clock.now_ms()),
        )

    def _retrying(self, call: Callable[[], T]) -> T:
        return self._retry(call, ACQUIRING, self._call.deadline)
