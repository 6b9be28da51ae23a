"""SnapStart: keep leases, sockets and names out of the snapshot that every environment of a version starts from.

Lambda initializes a function once when a version is published, and restores each environment from that one snapshot.
All of them would use one lease, write to one socket with the same TLS keys, and have one holder's name. So the snapshot
is taken after everything was released and closed, and not at all while a lease of the initialization is still held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.client.lease_file import LeaseNotes


class Snapshotted(Protocol):
    """What the hooks need of a governor."""

    holder: str

    def close(self) -> None:
        """Close the kept connections and release their leases."""


def register(
    governor: Snapshotted, lease_file: LeaseNotes, *, close_sockets: Callable[[], None], new_holder: Callable[[], str]
) -> None:
    """Register the hooks before the snapshot and after each restore.

    Args:
        governor: its leases must not be in the snapshot.
        lease_file: the leases that its process holds.
        close_sockets: closes the kept connections to AWS's services.
        new_holder: returns a name that no other environment has.
    """
    try:
        from snapshot_restore_py import (  # noqa: PLC0415 - only the managed runtimes have it
            register_after_restore,
            register_before_snapshot,
        )
    except ImportError:
        return

    def before_snapshot() -> None:
        leave_nothing(governor, lease_file)
        close_sockets()

    def after_restore() -> None:
        governor.holder = new_holder()

    register_before_snapshot(before_snapshot)
    register_after_restore(after_restore)


def leave_nothing(governor: Snapshotted, lease_file: LeaseNotes) -> None:
    """Release the kept leases, and stop writing to the lease file that the snapshot would contain.

    Raises:
        InvalidRequest: a lease is still held, which fails the publishing of the version.
    """
    governor.close()
    held = lease_file.held_now()
    if held:
        raise InvalidRequest(
            "SnapStart",
            f"the initialization still holds the leases {', '.join(held)}: every environment restored from its"
            " snapshot would use them, so release them, or acquire within the handler",
        )
    lease_file.close()
