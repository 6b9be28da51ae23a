"""Which server a session is on: what a later session tells about an earlier one, and whether the server takes writes.

After a failover the old server may be silent: no end of the stream comes, and a lease would have to expire. Its session
is known to have ended where a new session through the same address is on

- the same server, whose process has started since: a restart, and the standby of an RDS Multi-AZ instance, which has
  the same storage and with it the same `server_uuid`; or
- another server, where both take writes: the address led to the writer each time, and a cluster has one. The old server
  may still run, but no longer as the one that the budget is for.

Nothing is concluded from two servers of which one only reads: an address for reading leads to several at a time.
NOT covered: several writers behind one address, as with Galera or Group Replication's multi-primary mode.
"""

from __future__ import annotations

from typing import Final

from connection_governor.core.values import dataclass

ROLES: Final = ("any", "writer")
"""`DB_ROLE`: `writer` refuses a server that only reads, as the old writer's address may lead to after a failover."""

_CLOCK_TOLERANCE_S = 1


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A server, as a session found it when it was opened.

    Attributes:
        name: what no other server has.
        started_s: when its process started, in seconds since 1970 UTC by its own clock.
        is_writer: whether it took writes.
    """

    name: str
    started_s: int
    is_writer: bool

    def proves_ended(self, earlier: DatabaseServer) -> bool:
        """Return whether a session on this server proves that an earlier session, on that one, has ended."""
        if self.name == earlier.name:
            return self.started_s > earlier.started_s + _CLOCK_TOLERANCE_S
        return self.is_writer and earlier.is_writer
