"""A database's status as of one read, and its JSON form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core import plan
from connection_governor.core.lease import Lease, Settings, Shard, stored_lease
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    limited = settings.opens_per_second > 0
    rate = {"opens_per_second": settings.opens_per_second, "open_burst": settings.open_burst} if limited else {}
    return {
        "database": settings.database,
        "allowed": settings.allowed,
        **rate,
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
                **({} if shard.opens_us is None else {"opens_us": shard.opens_us}),
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


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """A stored lease, as a status shows it.

    Attributes:
        lease_id: its id.
        holder: the tag of its holder that is stored with it: at most 7 characters of the function's name.
        connections: how many it stands for.
        expires_at_ms: its end, milliseconds since 1970 UTC.
        shard: index of the shard that granted it.
    """

    lease_id: str
    holder: str
    connections: int
    expires_at_ms: int
    shard: int


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard, as a status shows it; see `DatabaseStatus` for the counts.

    Attributes:
        shard: its index.
        allowed, in_use, remaining: its part of the database's.
        fence: grows with each grant.
        plan: the last budget plan that it carries.
    """

    shard: int
    allowed: int
    in_use: int
    remaining: int
    fence: int
    plan: int


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """A database as of one read, as `Governor.status` and `set_budget` return it.

    `status["remaining"]` reads the JSON form.

    Attributes:
        database: its name.
        allowed: the budget, in connections.
        in_use: connections granted, also those of expired leases that are still stored.
        remaining: what of the budget is left; below zero after it was lowered.
        plan: number of the last budget plan.
        settled: whether that plan has reached every shard in full.
        leases: every stored lease, soonest end first.
        shards: every shard.
        json: the same as the contract's JSON.
        opens_per_second, open_burst: how fast connections are granted at most, and how many more at once; 0: no limit.
    """

    database: str
    allowed: int
    in_use: int
    remaining: int
    plan: int
    settled: bool
    leases: tuple[LeaseStatus, ...]
    shards: tuple[ShardStatus, ...]
    json: Mapping[str, Any]
    opens_per_second: int = 0
    open_burst: int = 0

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> DatabaseStatus:
        """Return the value of a JSON report; what a newer governor function adds stays in `json` alone."""
        return cls(
            **{name: report[name] for name in ("database", "allowed", "in_use", "remaining", "plan", "settled")},
            leases=tuple(LeaseStatus(**_fields(LeaseStatus, lease)) for lease in report["leases"]),
            shards=tuple(ShardStatus(**_fields(ShardStatus, shard)) for shard in report["shards"]),
            json=report,
            opens_per_second=report.get("opens_per_second", 0),
            open_burst=report.get("open_burst", 0),
        )

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - as in the JSON form
        """Return a field of the JSON form."""
        return self.json[name]


def _fields(kind: type, report: Mapping[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in kind.__annotations__}
