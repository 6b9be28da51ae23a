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

from typing import TYPE_CHECKING, Any, Final

from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLES = ("any", "writer")
"""`DB_ROLE`: `writer` refuses a server that only reads, as the old writer's address may lead to after a failover."""

READ_ONLY_ERRORS: Final = frozenset({1290, 1792, 1836})
"""What a server that has become read-only says to a write."""

_CLOCK_TOLERANCE_S = 1
_ON = {"1", "ON"}
# Both terms of the difference are taken at the statement's start, so it is the same for the life of a server process.
_STARTED = "UNIX_TIMESTAMP() - (SELECT variable_value FROM {table} WHERE variable_name = 'Uptime')"
_OF_MARIADB = f"SELECT @@server_uid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="information_schema.global_status"
)
_OF_MYSQL = f"SELECT @@server_uuid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="performance_schema.global_status"
)


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


def server_query(*, is_mariadb: bool) -> str:
    """Return the query that a session learns its server by; it needs no right."""
    return _OF_MARIADB if is_mariadb else _OF_MYSQL


def server_of(row: Sequence[Any]) -> DatabaseServer:
    """Return the server that the query's only row describes."""
    name, read_only, innodb_read_only, started_s = row
    is_writer = not {str(read_only).upper(), str(innodb_read_only).upper()} & _ON
    return DatabaseServer(str(name), int(started_s), is_writer)
