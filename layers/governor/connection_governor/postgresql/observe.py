"""PostgreSQL's own count: its sessions matched to leases, and the end of sessions without a lease. For the janitor.

Needs membership in `pg_read_all_stats` for the names of other roles' sessions, and in `pg_signal_backend` to end them.
A role sees and ends its own sessions without any right.

A body that sets `application_name` itself hides its lease until its session is reset or closed: it counts as one
without a lease, and is never ended by the janitor.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from connection_governor.core.observation import SESSION_NAME, Observation, Session
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from psycopg import Connection

END_MS: Final = 1_000
"""How long the end of a session is waited for: a backend looks for it between two steps of a statement."""

_KEEPS_NAMES: Final = "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"
_SESSIONS: Final = """
    SELECT pid, usename, coalesce(host(client_addr), ''), coalesce(state, ''),
           greatest(0, extract(epoch FROM clock_timestamp() - state_change))::bigint,
           application_name, backend_start::text
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND coalesce(backend_type, 'client backend') = 'client backend' AND usename = ANY(%s)
"""
# One statement looks and ends: a process's number is used again only after all others were.
_END: Final = """
    SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = %s::timestamptz AND (%s::text IS NULL OR application_name = %s)
"""
END_NAMED: Final = b"""
    SELECT pg_terminate_backend(pid, $1) FROM pg_stat_activity
    WHERE application_name = ANY($2::text[]) AND usename = current_user AND pid <> pg_backend_pid()
"""


def observe(connection: Connection[Any], users: Collection[str]) -> Observation:
    """List the sessions of these users.

    Args:
        connection: of a monitoring user.
        users: names under which governed workers sign in; at least one.

    Raises:
        psycopg.Error: the server refused.
        InvalidRequest: no user was named.
    """
    if not users:
        raise InvalidRequest("users", "must name at least one")
    names_known = bool(_only(connection, _KEEPS_NAMES))
    rows = connection.execute(_SESSIONS, [list(users)]).fetchall()
    return Observation(tuple(_session(row) for row in rows), names_known=names_known)


def kill(connection: Connection[Any], session: Session) -> bool:
    """End a governed session if it is still the same one, under the same lease; return whether there was one.

    Raises:
        psycopg.Error: the server refused, such as for a missing right.
    """
    return session.lease_id is not None and _end(connection, session, session.program_name)


def end(connection: Connection[Any], session: Session) -> bool:
    """End an observed session at an operator's word, with a lease or without. Return whether there was one to end.

    Raises:
        psycopg.Error: the server refused, such as for a missing right.
    """
    return _end(connection, session, None)


def named(names: Collection[str]) -> list[bytes]:
    """Return the values of `END_NAMED` for governed sessions of these names; other names are left out."""
    listed = ",".join(f'"{name}"' for name in names if re.fullmatch(SESSION_NAME, name))
    return [str(END_MS).encode(), f"{{{listed}}}".encode()]


def _end(connection: Connection[Any], session: Session, name: str | None) -> bool:
    values = [END_MS, session.connection_id, session.started, name, name]
    return connection.execute(_END, values).fetchone() is not None


def _only(connection: Connection[Any], query: str, *values: object) -> object:
    row = connection.execute(query.encode(), values).fetchone()
    return row and row[0]


def _session(row: tuple[Any, ...]) -> Session:
    pid, user, host, state, seconds, name, started = row
    return Session(int(pid), user, host, state, int(seconds or 0), name or None, started)
