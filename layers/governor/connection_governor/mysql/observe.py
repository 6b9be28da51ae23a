"""MySQL's own count: its sessions matched to leases, and the end of sessions without a lease. For the janitor.

Needs `SELECT` on `performance_schema` and, to end sessions of others, `CONNECTION ADMIN` (MySQL: `CONNECTION_ADMIN`);
on Amazon RDS, whose master user may lack it, `mysql.rds_kill`. Tested on MySQL 9.7 and MariaDB 10.11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.constants import ER

from connection_governor.core.observation import Observation, Session, is_session_name
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

_NOT_CLIENTS = ("Daemon", "Binlog Dump", "Binlog Dump GTID")

# The lists of sessions, without the observer's own. With performance_schema, `threads` is read rather than the process
# list: the SELECT right that the attributes need is all it takes, and it locks nothing on MySQL. One statement reads
# sessions and names together: between two, a session that comes or goes would count as one without a lease.
# MySQL's process list also leaves a session out that still rolls back after its client has gone: `threads` has it.
# Without performance_schema only the status Threads_connected counts it, for all users together.
_FROM_THREADS = """
    SELECT t.processlist_id, t.processlist_user, t.processlist_host, t.processlist_command, t.processlist_time,
           a.attr_value
    FROM performance_schema.threads t LEFT JOIN performance_schema.session_connect_attrs a
         ON a.processlist_id = t.processlist_id AND a.attr_name = 'program_name'
    WHERE t.processlist_id IS NOT NULL AND t.processlist_id <> CONNECTION_ID()
      AND t.processlist_user IN %s AND COALESCE(t.processlist_command, '') NOT IN %s
"""
_FROM_PROCESS_LIST = """
    SELECT id, user, host, command, time, NULL FROM information_schema.processlist
    WHERE id <> CONNECTION_ID() AND user IN %s AND command NOT IN %s
"""
_OWN_ATTRIBUTES = """
    SELECT COUNT(*) FROM performance_schema.session_connect_attrs WHERE processlist_id = CONNECTION_ID()
"""
_NAME_NOW = """
    SELECT attr_value FROM performance_schema.session_connect_attrs
    WHERE processlist_id = %s AND attr_name = 'program_name'
"""

# The attributes of the user's own sessions: reading them, and ending those sessions, needs no right.
_OWN_NAMED = """
    SELECT processlist_id FROM performance_schema.session_account_connect_attrs
    WHERE attr_name = 'program_name' AND processlist_id <> CONNECTION_ID() AND attr_value IN ({names})
"""


def own_sessions_query(names: Collection[str]) -> str:
    """Return the query for the numbers of the user's own other sessions with these names."""
    return _OWN_NAMED.format(names=", ".join(["''", *(f"'{name}'" for name in names if is_session_name(name))]))


def observe(connection: Connection[Cursor], users: Collection[str]) -> Observation:
    """List the sessions of these users.

    Args:
        connection: of a monitoring user.
        users: names under which governed workers sign in; at least one.

    Raises:
        pymysql.err.Error: the server refused, such as for a missing right.
        InvalidRequest: no user was named.
    """
    if not users:
        raise InvalidRequest("users", "must name at least one")
    with connection.cursor() as cursor:
        names_known = keeps_names(cursor)
        cursor.execute(_FROM_THREADS if names_known else _FROM_PROCESS_LIST, (tuple(users), _NOT_CLIENTS))
        sessions = tuple(_session(row) for row in cursor.fetchall())
    return Observation(sessions, names_known=names_known)


def kill(connection: Connection[Cursor], session: Session) -> bool:
    """End a governed session, if its number still belongs to the same lease; return whether there was one.

    Connection numbers are not used again before the server restarts or 2**32 have passed. So no new session can get
    the number between the check and the KILL.

    Raises:
        pymysql.err.Error: the server refused, such as for a missing right.
    """
    if session.lease_id is None:
        return False
    with connection.cursor() as cursor:
        cursor.execute(_NAME_NOW, (session.connection_id,))
        if cursor.fetchone() != (session.program_name,):
            return False
        return _kill(cursor, session.connection_id)


def end(connection: Connection[Cursor], session: Session) -> bool:
    """End an observed session at an operator's word, with a lease or without. Return whether there was one to end.

    Raises:
        pymysql.err.Error: the server refused, such as for a missing right.
    """
    with connection.cursor() as cursor:
        return _kill(cursor, session.connection_id)


def _kill(cursor: Cursor, connection_id: int) -> bool:
    try:
        try:
            cursor.execute("KILL CONNECTION %s", (connection_id,))
        except err.MySQLError as refused:
            if refused.args[0] != ER.KILL_DENIED_ERROR:
                raise
            cursor.execute("CALL mysql.rds_kill(%s)", (connection_id,))
    except err.MySQLError as refused:
        if refused.args[0] != ER.NO_SUCH_THREAD:
            raise
        return False
    return True


def keeps_names(cursor: Cursor) -> bool:
    """Return whether the server keeps the names of sessions: the observer itself gave one, as any client does."""
    cursor.execute("SELECT @@performance_schema")
    if cursor.fetchone() != (1,):
        return False
    cursor.execute(_OWN_ATTRIBUTES)
    return cursor.fetchone() != (0,)


def _session(row: tuple[Any, ...]) -> Session:
    connection_id, user, host, command, seconds, name = row
    return Session(int(connection_id), user, host or "", command or "", int(seconds or 0), name)
