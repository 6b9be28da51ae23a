"""How a session learns which MySQL server it is on, and that this server has become read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connection_governor.database.server import DatabaseServer

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_ONLY_ERRORS: Final = frozenset({1290, 1792, 1836})
"""What a server that has become read-only says to a write."""

_ON = {"1", "ON"}
# Both terms of the difference are taken at the statement's start, so it is the same for the life of a server process.
_STARTED = "UNIX_TIMESTAMP() - (SELECT variable_value FROM {table} WHERE variable_name = 'Uptime')"
_OF_MARIADB = f"SELECT @@server_uid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="information_schema.global_status"
)
_OF_MYSQL = f"SELECT @@server_uuid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="performance_schema.global_status"
)


def server_query(*, is_mariadb: bool) -> str:
    """Return the query that a session learns its server by; it needs no right."""
    return _OF_MARIADB if is_mariadb else _OF_MYSQL


def server_of(row: Sequence[Any]) -> DatabaseServer:
    """Return the server that the query's only row describes."""
    name, read_only, innodb_read_only, started_s = row
    is_writer = not {str(read_only).upper(), str(innodb_read_only).upper()} & _ON
    return DatabaseServer(str(name), int(started_s), is_writer)
