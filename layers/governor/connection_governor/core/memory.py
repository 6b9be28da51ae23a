"""The store in memory, for tests, simulations and trying things out: the same conditions, under one lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from connection_governor.core.lease import Shard, record_connections
from connection_governor.core.rules import connections_of
from connection_governor.core.store import Unwritten, Written
from connection_governor.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Leases, Settings, ShardKey
    from connection_governor.core.opening import Opening
    from connection_governor.core.plan import Change


class MemoryStore:
    """A `LeaseStore` for one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: dict[ShardKey, Shard] = {}
        self._settings: dict[str, Settings] = {}

    def within(self, deadline: Deadline | None) -> MemoryStore:  # noqa: ARG002 - memory answers at once
        """See `LeaseStore.within`."""
        return self

    def grant(
        self,
        key: ShardKey,
        lease_id: str,
        record: str,
        taken: Leases = (),
        waited_ms: int | None = None,
        opening: Opening | None = None,
    ) -> Written | Unwritten:
        """See `LeaseStore.grant`."""
        with self._lock:
            shard = self._shards.get(key)
            connections, freed = record_connections(record), connections_of(taken)
            if (
                shard is None
                or lease_id in shard.leases
                or shard.remaining < connections - freed
                or not _all_stored(shard, taken)
                or (opening is not None and not _has_token(shard, opening))
            ):
                return Unwritten(shard)
            left = shard.without(taken, remaining=shard.remaining + freed - connections)
            return self._put(
                replace(
                    left,
                    fence=shard.fence + 1,
                    leases={**left.leases, lease_id: record},
                    waited_ms=waited_ms or shard.waited_ms,
                    opens_us=_opens_after(shard, opening),
                )
            )

    def remove(self, key: ShardKey, leases: Leases) -> Written | Unwritten:
        """See `LeaseStore.remove`."""
        with self._lock:
            shard = self._shards.get(key)
            if shard is None or not _all_stored(shard, leases):
                return Unwritten(shard)
            return self._put(shard.without(leases, remaining=shard.remaining + connections_of(leases)))

    def renew(self, key: ShardKey, lease_id: str, record: str, renewed: str) -> Written | Unwritten:
        """See `LeaseStore.renew`."""
        with self._lock:
            shard = self._shards.get(key)
            if shard is None or shard.remaining < 0 or not _all_stored(shard, ((lease_id, record),)):
                return Unwritten(shard)
            return self._put(replace(shard, leases={**shard.leases, lease_id: renewed}))

    def read(self, keys: Sequence[ShardKey], *, consistent: bool) -> list[Shard | None]:  # noqa: ARG002 - memory is always consistent
        """See `LeaseStore.read`."""
        with self._lock:
            return [self._shards.get(key) for key in keys]

    def settings(self, database: str, *, consistent: bool) -> Settings | None:  # noqa: ARG002 - memory is always consistent
        """See `LeaseStore.settings`."""
        with self._lock:
            return self._settings.get(database)

    def save_settings(self, settings: Settings, *, plan_as_read: int | None) -> bool:
        """See `LeaseStore.save_settings`."""
        with self._lock:
            stored = self._settings.get(settings.database)
            if (stored.plan if stored else None) != plan_as_read:
                return False
            self._settings[settings.database] = settings
            return True

    def make_shard(self, key: ShardKey, plan: int, opens_us: int | None = None) -> None:
        """See `LeaseStore.make_shard`."""
        with self._lock:
            self._shards.setdefault(key, Shard(key, allowed=0, remaining=0, fence=0, plan=plan, opens_us=opens_us))

    def stamp(self, change: Change, plan: int) -> bool:
        """See `LeaseStore.stamp`."""
        with self._lock:
            shard = self._shards.get(change.key)
            return shard is not None and shard.plan < plan and self._resize(shard, change, plan)

    def raise_allowed(self, change: Change, plan: int) -> bool:
        """See `LeaseStore.raise_allowed`."""
        with self._lock:
            shard = self._shards.get(change.key)
            return shard is not None and shard.plan == plan and self._resize(shard, change, plan)

    def _resize(self, shard: Shard, change: Change, plan: int) -> bool:
        if shard.allowed != change.allowed_as_read:
            return False
        opens_us = None if change.unlimited else shard.opens_us
        if change.opens_us is not None:
            if (opens_us or 0) > change.opens_us:
                return False
            opens_us = change.opens_us
        remaining = shard.remaining + change.added
        self._put(replace(shard, allowed=change.allowed, remaining=remaining, plan=plan, opens_us=opens_us))
        return True

    def _put(self, shard: Shard) -> Written:
        self._shards[shard.key] = shard
        return Written(shard.allowed, shard.remaining, shard.fence, shard.waited_ms, shard.opens_us)


def _has_token(shard: Shard, opening: Opening) -> bool:
    opens_us = shard.opens_us
    if opens_us is None or shard.plan < opening.first_plan or shard.plan > opening.last_plan:
        return False
    if opening.refilled_us is not None:
        return opens_us < opening.full_us
    return opens_us >= opening.full_us and opens_us <= opening.latest_us


def _opens_after(shard: Shard, opening: Opening | None) -> int | None:
    if opening is None or shard.opens_us is None:
        return shard.opens_us
    return shard.opens_us + opening.cost_us if opening.refilled_us is None else opening.refilled_us


def _all_stored(shard: Shard, leases: Leases) -> bool:
    return all(shard.leases.get(lease_id) == record for lease_id, record in leases)
