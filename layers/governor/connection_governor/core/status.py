"""A database's status as of one read, and its JSON form."""

from __future__ import annotations

from typing import Any

from connection_governor.core import plan
from connection_governor.core.lease import Lease, Settings, Shard, stored_lease
from connection_governor.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """A database as of one consistent read of its shards."""

    settings: Settings
    shards: tuple[Shard, ...]

    @property
    def in_use(self) -> int:
        """Connections in use, also those of leases that have expired and are not yet reclaimed."""
        return sum(shard.in_use for shard in self.shards)

    @property
    def remaining(self) -> int:
        """Connections of the budget that are not in use."""
        return self.settings.allowed - self.in_use

    @property
    def settled(self) -> bool:
        """Whether the last budget change has reached every shard in full."""
        return plan.is_settled(self.shards, self.settings)

    def leases(self) -> list[Lease]:
        """Return every stored lease, soonest expiry first; `holder` is the stored tag, and `fence` is not stored."""
        held = [stored_lease(shard.key, *entry) for shard in self.shards for entry in shard.leases.items()]
        return sorted(held, key=lambda lease: lease.expires_at_ms)


def status_report(status: Status) -> dict[str, Any]:
    """Return a database's status as the contract shows it."""
    settings = status.settings
    return {
        "database": settings.database,
        "allowed": settings.allowed,
        "in_use": status.in_use,
        "remaining": status.remaining,
        "plan": settings.plan,
        "settled": status.settled,
        "leases": [_lease_report(lease) for lease in status.leases()],
        "shards": [
            {
                "shard": shard.key.index,
                "allowed": shard.allowed,
                "in_use": shard.in_use,
                "remaining": shard.remaining,
                "fence": shard.fence,
                "plan": shard.plan,
            }
            for shard in status.shards
        ],
    }


def _lease_report(lease: Lease) -> dict[str, Any]:
    return {
        "lease_id": lease.lease_id,
        "holder": lease.holder,
        "connections": lease.connections,
        "expires_at_ms": lease.expires_at_ms,
        "shard": lease.shard,
    }
