"""MySQL's own count: its sessions matched to leases, and the end of sessions without a lease. For the janitor.

Needs `SELECT` on `performance_schema` and, to end sessions of others, `CONNECTION ADMIN` (MySQL: `CONNECTION_ADMIN`);
on Amazon RDS, whose master user may lack it, `mysql.rds_kill`. Proven on MariaDB 10.11; written for MySQL 8 by its
manual, which could not be run where the tests run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.constants import ER

from connection_governor.core.values import dataclass
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

_SESSION_NAME = re.compile(r"governor:(?P<lease_id>[A-Za-z0-9_-]{8,16}):(?P<database>[A-Za-z0-9_-]{1,32})#[0-9]+")
_NOT_CLIENTS = ("Daemon", "Binlog Dump", "Binlog Dump GTID")

# The lists of sessions, without the observer's own. With performance_schema, `threads` is read rather than the process
# list: the SELECT right that the attributes need is all it takes, and it locks nothing on MySQL. One statement reads
# sessions and names together: between two, a session that comes or goes would count as one without a lease.
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


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the server lists it.

    Attributes:
        connection_id: the server's number for it, what KILL takes.
        user: the user that signed in.
        host: the client's address.
        command: its present command, such as `Sleep` or `Query`.
        seconds: for how long.
        program_name: the name it gave itself on connecting, or None if it gave none or the server keeps none.
    """

    connection_id: int
    user: str
    host: str
    command: str
    seconds: int
    program_name: str | None

    @property
    def lease_id(self) -> str | None:
        """The lease it was opened under; None for an ungoverned one."""
        named = _SESSION_NAME.fullmatch(self.program_name or "")
        return named["lease_id"] if named else None

    @property
    def database(self) -> str | None:
        """The governed database whose budget granted the lease: one server may hold several."""
        named = _SESSION_NAME.fullmatch(self.program_name or "")
        return named["database"] if named else None


@dataclass(frozen=True, slots=True)
class Observation:
    """The sessions of the governed users at one moment.

    Attributes:
        sessions: all of them, other than the observer's own.
        names_known: whether the server keeps the names of sessions. If not, no session can be matched to a lease: then
            nothing may be concluded about leases, and no session may be killed.
    """

    sessions: tuple[Session, ...]
    names_known: bool

    @property
    def ungoverned(self) -> int | None:
        """How many sessions hold no lease; None if the server keeps no names."""
        if not self.names_known:
            return None
        return sum(session.lease_id is None for session in self.sessions)


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
