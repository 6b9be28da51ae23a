"""A lease as JSON: the one form that requests and answers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connection_governor.core.lease import Lease

LEASE_FIELDS = ("lease_id", "database", "holder", "connections", "fence", "expires_at_ms", "shard")

TOO_FAST = "too_fast"  # the reason of a refusal for the opening rate


def lease_payload(lease: Lease) -> dict[str, Any]:
    """Return a lease as JSON, as the contract shows it."""
    return {name: getattr(lease, name) for name in LEASE_FIELDS}
