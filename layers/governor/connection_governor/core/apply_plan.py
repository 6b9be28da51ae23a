"""Carry a budget plan out, and reclaim expired leases: for operators, the janitor, and refused acquires."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from connection_governor.core import checks, opening, plan, rules
from connection_governor.core.lease import ShardKey, stored_lease
from connection_governor.core.reading import Reading
from connection_governor.core.retry import RELEASING
from connection_governor.core.store import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease, Settings, Shard
    from connection_governor.core.retry import Retry
    from connection_governor.core.store import LeaseStore

T = TypeVar("T")

FOUND_AT_ONCE = 100  # shards that one batch read may name
ROUNDS = 20  # steps of one plan, and races lost to its other executors, before leaving the rest to them


class PlanExecutor:
    """Moves capacity between shards by the settings' plan, and no faster than it comes back.

    Args:
        store: where the shards are; every read here is strongly consistent.
        clock: judges which leases have expired.
        retry: repeats failed requests.
        deadline: no request outlasts it.
    """

    def __init__(self, store: LeaseStore, clock: Clock, retry: Retry, deadline: Deadline | None = None) -> None:
        self._store = store.within(deadline)
        self._clock = clock
        self._retry = retry
        self._deadline = deadline

    def within(self, deadline: Deadline | None) -> PlanExecutor:
        """Return the same, none of whose requests outlasts the deadline."""
        return PlanExecutor(self._store, self._clock, self._retry, deadline)

    def settings(self, database: str) -> Settings | None:
        """Return the settings as of now; None if no budget was ever set."""
        return self._trying(partial(self._store.settings, database, consistent=True))

    def read(self, settings: Settings) -> list[Shard | None]:
        """Return every shard that ever existed, as of now."""
        return self._read(settings.keys)

    def find(self, database: str) -> list[Shard]:
        """Return every existing shard item, whatever the settings name: they may be lost, or restored from a backup."""
        found: list[Shard] = []
        for start in range(0, checks.MAX_SHARDS, FOUND_AT_ONCE):
            indexes = range(start, min(start + FOUND_AT_ONCE, checks.MAX_SHARDS))
            shards = self._read([ShardKey(database, index) for index in indexes])
            found += [shard for shard in shards if shard is not None]
            if not any(shards):  # items are made in index order and never deleted
                break
        return found

    def apply(self, settings: Settings) -> None:
        """Bring every shard to this plan, reclaiming expired leases if capacity is short; any executor may repeat it.

        Raises:
            GovernorUnavailable: the store could not be reached; the next executor continues from there.
        """
        self.reclaim(settings)
        for _ in range(ROUNDS):
            shards = self._made(settings)
            if plan.is_superseded(shards, settings) or not self._step(shards, settings):
                return

    def reclaim(self, settings: Settings) -> list[Lease]:
        """Reclaim every lease that is past its expiry and the allowance for clocks; return the reclaimed leases."""
        reclaimed: list[Lease] = []
        for shard in self.read(settings):
            if shard is not None:
                for over in rules.reclaimable(shard, now_ms=self._clock.now_ms(), skew_ms=settings.skew_ms):
                    if isinstance(self._trying(partial(self._store.remove, shard.key, over)), Written):
                        reclaimed += [stored_lease(shard.key, *entry) for entry in over]
        return reclaimed

    def _step(self, shards: Sequence[Shard], settings: Settings) -> bool:
        """Write what the plan has left to write now; return whether there was anything. A lost race ends the step."""
        stamps = plan.stamps(shards, settings, now_ms=self._clock.now_ms())
        changes = stamps or plan.raises(shards, settings)
        write = self._store.stamp if stamps else self._store.raise_allowed
        for change in changes:
            if not self._trying(partial(write, change, settings.plan)):
                break
        return bool(changes)

    def _made(self, settings: Settings) -> list[Shard]:
        """Return every shard item, after creating missing ones: an older plan could write to a skipped one."""
        for key, shard in zip(settings.keys, self.read(settings), strict=True):
            if shard is None:
                self._trying(partial(self._store.make_shard, key, settings.plan, self._opens_us(settings)))
        return [shard for shard in self.read(settings) if shard is not None]

    def _opens_us(self, settings: Settings) -> int | None:
        """Return the `opens` of a new shard; None if the opening rate is not limited."""
        return opening.empty_from_us(settings, now_ms=self._clock.now_ms()) if settings.opens_per_second else None

    def _read(self, keys: Sequence[ShardKey]) -> list[Shard | None]:
        return Reading(self._store, keys, consistent=True).to_the_end(self._retry, RELEASING, self._deadline)

    def _trying(self, call: Callable[[], T]) -> T:
        return self._retry(call, RELEASING, self._deadline)
