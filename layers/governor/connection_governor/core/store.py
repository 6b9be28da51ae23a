"""The engine's requirements of a store: a few conditional writes on one shard each, and reads.

A store tries once. If it fails it raises `GovernorUnavailable`, and the write may or may not have been applied. Every
write here can be repeated, because its condition fails if it has been applied already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from connection_governor.core.values import dataclass
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Leases, Settings, Shard, ShardKey
    from connection_governor.core.opening import Opening
    from connection_governor.core.plan import Change


@dataclass(frozen=True, slots=True)
class Written:
    """The write was applied; the shard's counter after it."""

    allowed: int
    remaining: int
    fence: int
    waited_ms: int = 0
    opens_us: int | None = None


@dataclass(frozen=True, slots=True)
class Unwritten:
    """The condition did not hold and nothing changed; the shard as stored (None: there is no such item).

    `perhaps_applied`: the store had sent the same write before and got no answer, so this may be its own work.
    """

    shard: Shard | None
    perhaps_applied: bool = False


class PartlyReadError(GovernorUnavailable):
    """A part of the shards was read, and is kept in `found`; the rest can be asked for again."""

    def __init__(
        self, message: str, found: Mapping[ShardKey, Shard | None], *, throttled: bool = True, retryable: bool = True
    ) -> None:
        super().__init__(message, throttled=throttled, retryable=retryable)
        self.found = found


class LeaseStore(Protocol):
    """Shards and settings, each changed by one atomic conditional write."""

    def within(self, deadline: Deadline | None) -> LeaseStore:
        """Return the same store, none of whose requests outlasts the deadline."""

    def grant(
        self,
        key: ShardKey,
        lease_id: str,
        record: str,
        taken: Leases = (),
        waited_ms: int | None = None,
        opening: Opening | None = None,
    ) -> Written | Unwritten:
        """Store the lease and take its connections off the counter, freeing the expired leases in `taken` first.

        Only if the id is not stored yet, the counter (with what `taken` frees) suffices, and each taken lease is still
        stored exactly as seen. If this holder was refused before, `waited_ms`, the time, is stored as well. With
        `opening`, the shard's `opens` moves as well, and only if it and the shard's plan are as `opening` says.
        """

    def remove(self, key: ShardKey, leases: Leases) -> Written | Unwritten:
        """Remove these leases and add their connections to the counter, only if each is stored exactly so."""

    def renew(self, key: ShardKey, lease_id: str, record: str, renewed: str) -> Written | Unwritten:
        """Replace the lease's record, only if it is stored exactly so and the shard is not overdrawn."""

    def read(self, keys: Sequence[ShardKey], *, consistent: bool) -> list[Shard | None]:
        """Return the shards in the order asked; None for a missing one.

        Raises:
            PartlyReadError: only some were read.
        """

    def settings(self, database: str, *, consistent: bool) -> Settings | None:
        """Return the database's settings; None if no budget was ever set."""

    def save_settings(self, settings: Settings, *, plan_as_read: int | None) -> bool:
        """Store the settings, only if the stored plan is the one read (None: none was); return whether it did."""

    def make_shard(self, key: ShardKey, plan: int, opens_us: int | None = None) -> None:
        """Create the shard's item with nothing allowed, if it is missing; `opens_us`: with a limited opening rate."""

    def stamp(self, change: Change, plan: int) -> bool:
        """Lower or keep a shard, only if its plan is older and `allowed` is as read; return whether it did.

        Move its `opens` to `change.opens_us`, never back, or remove it, as the change says.
        """

    def raise_allowed(self, change: Change, plan: int) -> bool:
        """Raise a shard, only if it carries this very plan and `allowed` is as read; return whether it did.

        Move its `opens` as `stamp` does.
        """
