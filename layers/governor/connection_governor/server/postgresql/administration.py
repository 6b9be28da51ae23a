"""The administrator's statements on PostgreSQL: roles with the least rights, in a database of their own.

The template's schema is a database here, as on MySQL: a session is in one database for its whole life, so the worker
needs one to sign in to. The seed makes it where it is missing, and works in it; the tables are in the schema `public`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import errors, sql

from connection_governor.database.credentials import DatabaseCredentials
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.postgresql.opener import Opener
from connection_governor.postgresql.refusal import is_denied
from connection_governor.server.ports import SeedError
from connection_governor.server.postgresql import database, limit_function, rights, roles, sample_table
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Cursor

    from connection_governor.database.credentials import Fetch
    from connection_governor.postgresql.session import FencedConnection
    from connection_governor.server.seed_properties import SeedProperties

ONLY_COUNTED: Final = "the administrator may not grant pg_signal_backend: the janitor will only count overdue sessions"
NAMES_UNKNOWN: Final = (
    "the administrator may not grant pg_read_all_stats: the janitor will end no session, and cannot tell sessions "
    "without a lease"
)
LIMIT_FIXED: Final = "the administrator may not create a function: `governor limit` will not work, deployments will"
RIGHTS_PARTIAL: Final = (
    "the administrator may not grant WorkerRights on the tables of every owner: each owner must (GRANT, and ALTER "
    "DEFAULT PRIVILEGES for tables that it makes later)"
)
_MAINTENANCE: Final = "postgres"  # the database that every server has, to sign in to before there is another
_MONITOR_CONNECTIONS: Final = 3  # a round's, an operator's action, and one that the server has not yet seen closed
_PATIENT: Final = Fence(idle_seconds=120, statement_seconds=20)
# No answer, or a server that is new, full, or fails over: a security group may have been changed a second ago.
_NOT_YET_REACHED: Final = (None, "53300", "57P01", "57P02", "57P03")
_SIGNAL: Final = "pg_signal_backend"
_STATISTICS: Final = "pg_read_all_stats"
_ROOM: Final = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0)
"""  # reserved_connections: since PostgreSQL 16


class PostgreSQLAdministration:
    """See `ports.Administration`.

    Args:
        fetch: from a secret's ARN to its string.
    """

    name = "PostgreSQL"
    error: type[Exception] = psycopg.Error
    room = "max_connections without the reserved ones"

    def __init__(self, fetch: Fetch) -> None:
        self._credentials = DatabaseCredentials(fetch, is_denied)

    def connect(self, wanted: SeedProperties) -> PostgreSQLAdministrator:
        """Sign in as the administrator. Raises `psycopg.Error`."""
        secret = wanted.administrator_secret
        return PostgreSQLAdministrator(lambda name: self._open(wanted, secret, name), self._credentials, wanted)

    def may_answer_later(self, refused: Exception) -> bool:
        """Return whether the server is new, full, fails over, or was not reachable a second ago."""
        return isinstance(refused, psycopg.OperationalError) and refused.sqlstate in _NOT_YET_REACHED

    def check_sign_in(self, wanted: SeedProperties, secret: str) -> None:
        """Sign in as a role that was just made: a line of pg_hba.conf may ask for another proof than a password."""
        try:
            self._open(wanted, secret, wanted.schema).close()
        except psycopg.OperationalError as refused:
            if is_denied(refused):
                raise SeedError(
                    f"PostgreSQL refuses the password of {self._credentials.get(secret).username} that was just set: "
                    "does a line of pg_hba.conf ask for something else?"
                ) from None
            # Any other error, such as a limit that is used up, says nothing about the password.

    def _open(self, wanted: SeedProperties, secret: str, name: str) -> FencedConnection:
        target = Target(host=wanted.host, port=wanted.port, database=name, tls=wanted.tls, tls_ca=wanted.tls_ca)
        opener = Opener(target, partial(self._credentials.attempts, secret), SYSTEM_CLOCK)
        return opener.open(_PATIENT, "governor-seed", None, autocommit=True)


class PostgreSQLAdministrator:
    """See `ports.Administrator`. It is in one database at a time, with one session: each takes one of the server's.

    Args:
        in_database: signs in to a database of the server, with autocommit.
        credentials: the environment's cache of secrets.
        wanted: what is to be made or removed.
    """

    def __init__(
        self, in_database: Callable[[str], FencedConnection], credentials: DatabaseCredentials, wanted: SeedProperties
    ) -> None:
        self._in_database = in_database
        self._credentials = credentials
        self._wanted = wanted
        self._connection = in_database(_MAINTENANCE)

    def room(self) -> int:
        """Return `max_connections` without those that are reserved."""
        (room,) = self._connection.execute(_ROOM).fetchone() or (0,)
        return int(room)

    def make_sample(self) -> None:
        """Create and fill the example's table where there is none."""
        sample_table.make(self._inside())

    def make_worker(self, *, limit: int) -> tuple[str, ...]:
        """Create or change the worker's role, its rights and its limit; return what it will not be able to do."""
        wanted, cursor = self._wanted, self._inside()
        worker = self._make_role(wanted.worker_secret, limit)
        granted = rights.grant(cursor, worker, wanted.rights)
        if wanted.with_example:
            sample_table.grant(cursor, worker)
        return () if granted else (RIGHTS_PARTIAL,)

    def make_monitor(self) -> tuple[str, ...]:
        """Create or change the monitoring role, its rights and the limit's function; return what it cannot do."""
        cursor = self._inside()
        monitor = self._make_role(self._wanted.monitor_secret, _MONITOR_CONNECTIONS)
        can = {
            ONLY_COUNTED: _granted(cursor, _SIGNAL, monitor),
            NAMES_UNKNOWN: _granted(cursor, _STATISTICS, monitor),
            LIMIT_FIXED: self._made_limit(cursor, monitor),
        }
        return tuple(note for note, able in can.items() if not able)

    def leave(self, replaced: tuple[str, str]) -> None:
        """Drop the earlier roles and the earlier worker's function, where they have other names now."""
        users, cursor = self._wanted.users, self._inside()
        if replaced[0] != users[0]:
            limit_function.remove(cursor, worker=replaced[0])
        for role in sorted(set(replaced) - set(users)):
            roles.drop(cursor, role)

    def remove(self) -> None:
        """Drop the roles, the function, the table that the seed created, and the database if nothing else is in it."""
        is_made = database.is_made(self._connection.cursor(), self._wanted.schema)
        if database.exists(self._connection.cursor(), self._wanted.schema):
            cursor = self._inside()
            sample_table.remove(cursor)
            limit_function.remove(cursor, worker=self._wanted.users[0])
            for role in self._wanted.users:
                roles.give_up(cursor, role)
            is_made = is_made and database.is_empty(cursor)
        cursor = self._in(_MAINTENANCE)
        if is_made:
            database.drop(cursor, self._wanted.schema)
        for role in self._wanted.users:
            roles.drop(cursor, role)

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def _inside(self) -> Cursor:
        """Return a cursor in the wanted database, which is made where it is missing."""
        if self._connection.info.dbname == _MAINTENANCE:
            database.make(self._connection.cursor(), self._wanted.schema)
        return self._in(self._wanted.schema)

    def _in(self, name: str) -> Cursor:
        if self._connection.info.dbname != name:
            self._connection.close()
            self._connection = self._in_database(name)
        return self._connection.cursor()

    def _make_role(self, secret: str, limit: int) -> str:
        login = self._credentials.get(secret)
        roles.make(self._connection.cursor(), login, limit)
        return login.username

    def _made_limit(self, cursor: Cursor, monitor: str) -> bool:
        try:
            limit_function.make(cursor, worker=self._wanted.users[0], monitor=monitor)
        except errors.InsufficientPrivilege:
            return False
        return True


def _granted(cursor: Cursor, right: str, role: str) -> bool:
    try:
        cursor.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(right), sql.Identifier(role)))
    except errors.InsufficientPrivilege:
        return False
    return True
