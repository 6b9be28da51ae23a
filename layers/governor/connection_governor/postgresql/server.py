"""How a session learns which PostgreSQL server it is on, for the case that this server falls silent later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connection_governor.database.server import DatabaseServer

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

# A cluster's members have one system identifier: the address tells them apart. It needs no right.
QUERY: Final = b"""
    SELECT system_identifier || '@' || coalesce(host(inet_server_addr()), '') || ':' || coalesce(inet_server_port(), 0),
           extract(epoch FROM pg_postmaster_start_time())::bigint,
           pg_is_in_recovery()
    FROM pg_control_system()
"""


def server_of(result: PGresult) -> DatabaseServer:
    """Return the server that the query's only row describes."""
    name, started_s, only_reads = (result.get_value(0, column) or b"" for column in range(3))
    return DatabaseServer(name.decode(), int(started_s), is_writer=only_reads == b"f")
