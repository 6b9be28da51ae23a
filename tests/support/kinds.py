"""Kinds of databases for the tests that hold for each: real servers, a worker's user, statements in its own words."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import psycopg
import pymysql
from psycopg import sql
from pymysql.constants import COMMAND

from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.database.target import Target
from connection_governor.postgresql import opener as postgresql_opener
from connection_governor.postgresql.refusal import is_denied
from connection_governor.server.mysql import statement_limit
from connection_governor.server.mysql.watch import MySQLWatch
from connection_governor.server.postgresql.watch import PostgreSQLWatch
from connection_governor.system import SYSTEM_CLOCK
from tests.support.database import opener_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from connection_governor.client.ports import Opener
    from connection_governor.mysql import opener as mysql_opener
    from connection_governor.server.ports import Watch
    from harness.stack.database_server import DatabaseServer
    from harness.stack.mysql_family import MySQLFamilyServer
    from harness.stack.postgresql import PrivatePostgreSQL

WORKER: Final = Login("kind_worker", "pässwörd €")
MONITOR: Final = Login("kind_monitor", "another €")
ROLE: Final = "kind_role"
SCHEMA: Final = "kinds"
LONG_S: Final = 20
"""How long a statement would last that nothing stops."""
LOCK_WAIT: Final = "a wait for a row"
TABLES: Final = ("rows_1", "rows_2", "rows_3", "rows_4")


def _tables() -> Iterator[str]:
    for table in TABLES:
        yield f"DROP TABLE IF EXISTS {table}"
        yield f"CREATE TABLE {table} (id INT PRIMARY KEY, pieces INT)"
        yield f"INSERT INTO {table} VALUES (1, 10)"


@dataclass
class Kind(ABC):
    """One kind of database.

    Attributes:
        server: a private one.
        lingering: statements that last for `LONG_S`, by name; each changes rows or tables of its own.
    """

    server: DatabaseServer
    lingering: ClassVar[Mapping[str, str]]
    who_am_i: ClassVar[str]
    role_now: ClassVar[str]
    schema_now: ClassVar[str]
    limits: ClassVar[str]
    """A query that returns the idle limit and the statement's limit, in milliseconds."""
    other_schema: ClassVar[str]
    remember: ClassVar[tuple[str, ...]]
    """Statements that leave something behind in a session: a variable, a table, a lock."""
    remembered: ClassVar[str]
    """A query that counts what they left."""
    end_one: ClassVar[str]
    without_transaction: ClassVar[Mapping[str, Any]] = {}
    """Options with which a query is sent alone: psycopg begins a transaction by a statement of its own."""
    _root: Any = field(default=None, init=False, repr=False)

    @property
    def target(self) -> Target:
        """Where it listens."""
        assert self.server.port is not None
        return Target(self.server.host, self.server.port, SCHEMA, tls_ca=str(self.server.ca_path))

    def _target_of(self, login: Login) -> Target:
        """Return where a user signs in: the monitor has no right to the worker's schema."""
        return self.target if login == WORKER else replace(self.target, database=None)

    @abstractmethod
    def prepare(self) -> None:
        """Make schema, tables, users and a role that the worker may take."""

    def leave(self) -> None:  # noqa: B027 - most kinds have nothing to undo
        """Undo what `prepare` has done to the server as a whole."""

    def clear(self) -> None:
        """Drop what an interrupted statement has made: MySQL's SLEEP answers 1 where it is interrupted."""
        self.run(self._root, "DROP TABLE IF EXISTS made")

    @contextlib.contextmanager
    def locked_row(self) -> Iterator[None]:
        """Hold the lock that `LOCK_WAIT` waits for."""
        with contextlib.closing(self._administrator()) as holder:
            self.run(holder, "BEGIN", "UPDATE rows_4 SET pieces = 2")
            yield

    def end_all(self, numbers: Iterable[int]) -> None:
        """End what is left of these sessions."""
        for number in filter(self.listed, numbers):
            with contextlib.suppress(Exception):  # it has gone meanwhile
                self.run(self._root, self.end_one.format(number))

    @abstractmethod
    def limit(self, connections: int) -> None:
        """Set how many sessions the worker's user may have."""

    @abstractmethod
    def opener(self, login: Login = WORKER, target: Target | None = None) -> Opener:
        """Return what opens sessions of a user."""

    @abstractmethod
    def raw(self) -> Any:  # noqa: ANN401 - either driver's
        """Return a connection of the bare driver, as the worker's user, over TLS as the governor opens it."""

    @abstractmethod
    def listed(self, number: int) -> bool:
        """Return whether the server still has this session."""

    @abstractmethod
    def working(self, number: int) -> bool:
        """Return whether this session is at a statement."""

    @abstractmethod
    def begin(self, session: Any, statement: str) -> None:  # noqa: ANN401 - either driver's
        """Send a statement, and leave its answer unread."""

    @abstractmethod
    def finish(self, session: Any) -> None:  # noqa: ANN401 - as above
        """Read the answer of what was begun; an error of the server's counts as one."""

    @abstractmethod
    def descriptors(self, session: Any) -> list[int]:  # noqa: ANN401 - as above
        """Return what this process holds of the session's socket."""

    @abstractmethod
    def watch(self) -> AbstractContextManager[Watch]:
        """Return the janitor's view of the server."""

    def ask(self, session: Any, query: str) -> tuple[Any, ...]:  # noqa: ANN401 - as above
        """Return a query's first row."""
        with session.cursor() as cursor:
            cursor.execute(query)
            row: tuple[Any, ...] = cursor.fetchone()
        return row

    def run(self, session: Any, *statements: str) -> None:  # noqa: ANN401 - as above
        """Run statements that return nothing of interest."""
        with session.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def number(self, session: Any) -> int:  # noqa: ANN401 - as above
        """Return the server's number for a session."""
        return int(self.ask(session, self.who_am_i)[0])

    @contextlib.contextmanager
    def administrator(self) -> Iterator[Any]:
        """Yield one connection with all rights for as long as the tests ask about sessions."""
        self.reconnect()
        try:
            yield self._root
        finally:
            self._root.close()

    def reconnect(self) -> None:
        """Renew the administrator's connection, after the server has started anew."""
        with contextlib.suppress(Exception):
            self._root.close()
        self._root = self._administrator()

    @abstractmethod
    def _administrator(self) -> Any: ...  # noqa: ANN401 - as above

    def seconds_until(self, number: int, *, gone: bool, at_most: float) -> float:
        """Wait until a session is gone, or at no statement any more; fail if it takes longer than `at_most` seconds."""
        look = self.listed if gone else self.working
        since = time.monotonic()
        while look(number):
            waited = time.monotonic() - since
            assert waited < at_most, f"{self.server.LABEL}: after {waited:.1f} s it is still there"
            time.sleep(0.01)
        return time.monotonic() - since


def _lingering(slow: str) -> Mapping[str, str]:
    return {
        "SELECT": slow,
        "UPDATE": f"UPDATE rows_1 SET pieces = ({slow})",
        "DELETE": f"DELETE FROM rows_2 WHERE ({slow}) = 7",
        "INSERT … SELECT": f"INSERT INTO rows_3 SELECT 2, ({slow})",
        "CREATE TABLE … AS SELECT": f"CREATE TABLE made AS {slow}",
        "SET @v = (SELECT …)": f"SET @v = ({slow})",
        "DO": f"DO ({slow})",
        "CALL": "CALL lasts()",
        LOCK_WAIT: "UPDATE rows_4 SET pieces = 1",
    }


@dataclass
class _MySQLFamily(Kind):
    server: MySQLFamilyServer
    _tls: ssl.SSLContext | None = field(default=None, init=False, repr=False)
    who_am_i = "SELECT CONNECTION_ID()"
    end_one = "KILL {}"
    role_now = "SELECT COALESCE(CURRENT_ROLE(), 'NONE')"
    schema_now = "SELECT DATABASE()"
    other_schema = "USE kinds_other"
    remember = ("SET @left = 1", "CREATE TEMPORARY TABLE left_over (id INT)", "DO GET_LOCK('left', 0)")
    remembered = "SELECT (@left IS NOT NULL) + (IS_USED_LOCK('left') IS NOT NULL)"

    def prepare(self) -> None:
        """See `Kind.prepare`."""
        self.server.execute(
            *(f"CREATE DATABASE IF NOT EXISTS {name}" for name in (SCHEMA, f"{SCHEMA}_other")),
            f"USE {SCHEMA}",
            "DROP TABLE IF EXISTS numbers",
            "CREATE TABLE numbers (n INT)",
            f"INSERT INTO numbers VALUES {', '.join(['(1)'] * LONG_S * 100)}",
            *_tables(),
            "DROP PROCEDURE IF EXISTS lasts",
            f"CREATE PROCEDURE lasts() {self.lingering['SELECT']}",
            f"DROP ROLE IF EXISTS {ROLE}",
            f"CREATE ROLE {ROLE}",
        )
        self.server.create_user(WORKER.username, WORKER.password, grants=[f"ALL ON {SCHEMA}.*", "ALL ON kinds_other.*"])
        self.server.execute(f"GRANT {ROLE} TO '{WORKER.username}'@'%'")
        rights = ["SELECT ON performance_schema.*", self.server.KILL_RIGHT]
        self.server.create_user(MONITOR.username, MONITOR.password, grants=rights)

    def limit(self, connections: int) -> None:
        """See `Kind.limit`."""
        self.server.execute(f"ALTER USER '{WORKER.username}'@'%' WITH MAX_USER_CONNECTIONS {connections}")

    def opener(self, login: Login = WORKER, target: Target | None = None) -> mysql_opener.Opener:
        """See `Kind.opener`."""
        return opener_for(target or self._target_of(login), login)

    def raw(self) -> Any:  # noqa: ANN401 - see `Kind`
        """See `Kind.raw`. One TLS context for all: to make one takes PyMySQL longer than the rest."""
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=str(self.server.ca_path))
        return pymysql.connect(
            host=self.server.host,
            port=self.target.port,
            user=WORKER.username,
            password=WORKER.password.encode(),
            database=SCHEMA,
            ssl=self._tls,
        )

    def listed(self, number: int) -> bool:
        """See `Kind.listed`."""
        return self._counted("processlist_id = %s", number) > 0

    def working(self, number: int) -> bool:
        """See `Kind.working`."""
        return self._counted("processlist_id = %s AND processlist_command <> 'Sleep'", number) > 0

    def begin(self, session: Any, statement: str) -> None:  # noqa: ANN401 - see `Kind`
        """See `Kind.begin`."""
        session._execute_command(COMMAND.COM_QUERY, statement)

    def finish(self, session: Any) -> None:  # noqa: ANN401 - see `Kind`
        """See `Kind.finish`."""
        with contextlib.suppress(pymysql.err.Error):
            session._read_query_result()

    def descriptors(self, session: Any) -> list[int]:  # noqa: ANN401 - see `Kind`
        """See `Kind.descriptors`."""
        return [session._sock.fileno()]

    def watch(self) -> AbstractContextManager[Watch]:
        """See `Kind.watch`."""
        return contextlib.closing(MySQLWatch(lambda: self.opener(MONITOR), lambda: [WORKER.username]))

    def _administrator(self) -> Any:  # noqa: ANN401 - see `Kind`
        return self.server.root(SCHEMA)

    def _counted(self, condition: str, number: int) -> int:
        with self._root.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM performance_schema.threads WHERE {condition}", (number,))
            return int(cursor.fetchone()[0])


class MySQLKind(_MySQLFamily):
    """MySQL, with the statement limit that the seed makes in it."""

    limits = "SELECT @@wait_timeout * 1000, @@max_execution_time"
    lingering = _lingering("SELECT SUM(SLEEP(0.01)) FROM numbers")  # none of them is long enough to look at its client

    def prepare(self) -> None:
        """See `Kind.prepare`."""
        super().prepare()
        self.limit_statements()

    def leave(self) -> None:
        """Remove the event: other tests show what happens without it."""
        with self.server.root() as root, root.cursor() as cursor:
            statement_limit.remove(cursor, worker=WORKER.username)

    def limit_statements(self) -> None:
        """Make the event that the seed makes."""
        with self.server.root() as root, root.cursor() as cursor:
            assert statement_limit.make(cursor, worker=WORKER.username, monitor=MONITOR.username) is None


class MariaDBKind(_MySQLFamily):
    """MariaDB."""

    limits = "SELECT @@wait_timeout * 1000, ROUND(@@max_statement_time * 1000)"
    # No SLEEP: all SLEEPs share a mutex, for which MariaDB's only thread of time-outs waits up to 2 s for each session.
    lingering = _lingering("SELECT COUNT(*) FROM numbers a, numbers b, numbers c")


@dataclass
class PostgreSQLKind(Kind):
    """PostgreSQL."""

    server: PrivatePostgreSQL
    who_am_i = "SELECT pg_backend_pid()"
    end_one = "SELECT pg_terminate_backend({})"
    without_transaction: ClassVar[Mapping[str, Any]] = {"autocommit": True}
    role_now = "SELECT current_role"
    schema_now = "SELECT current_schema()"
    other_schema = "SET search_path TO other"
    limits = (
        "SELECT (SELECT setting FROM pg_settings WHERE name = 'idle_session_timeout')::int,"
        " (SELECT setting FROM pg_settings WHERE name = 'statement_timeout')::int"
    )
    remember = ("SET work_mem = '3MB'", "CREATE TEMPORARY TABLE left_over (id INT)", "SELECT pg_advisory_lock(7)")
    remembered = (
        "SELECT (current_setting('work_mem') = '3MB')::int + (to_regclass('left_over') IS NOT NULL)::int"
        " + (SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory')::int"
    )
    lingering: ClassVar[Mapping[str, str]] = {
        "SELECT": f"SELECT pg_sleep({LONG_S})",
        "UPDATE": f"UPDATE rows_1 SET pieces = pieces + length(pg_sleep({LONG_S})::text)",
        "DELETE": f"DELETE FROM rows_2 WHERE pg_sleep({LONG_S}) IS NOT NULL",
        "INSERT … SELECT": f"INSERT INTO rows_3 SELECT 2, length(pg_sleep({LONG_S})::text)",
        "CREATE TABLE … AS SELECT": f"CREATE TABLE made AS SELECT pg_sleep({LONG_S})::text",
        "DO": f"DO $$ BEGIN PERFORM pg_sleep({LONG_S}); END $$",
        "CALL": "CALL lasts()",
        LOCK_WAIT: "UPDATE rows_4 SET pieces = 1",
    }

    def prepare(self) -> None:
        """See `Kind.prepare`."""
        with contextlib.closing(self.server.root()) as root:
            if root.execute("SELECT FROM pg_database WHERE datname = %s", (SCHEMA,)).fetchone() is None:
                root.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(SCHEMA)))
            if root.execute("SELECT FROM pg_roles WHERE rolname = %s", (ROLE,)).fetchone() is None:
                root.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(ROLE)))
        self.server.execute(
            "CREATE SCHEMA IF NOT EXISTS other",
            *_tables(),
            "DROP PROCEDURE IF EXISTS lasts",
            f"CREATE PROCEDURE lasts() LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({LONG_S}); END $$",
            database=SCHEMA,
        )
        rights = ["ALL ON ALL TABLES IN SCHEMA public", "ALL ON SCHEMA public", "ALL ON SCHEMA other", ROLE]
        self.server.create_user(WORKER.username, WORKER.password, grants=rights, database=SCHEMA)
        rights = ["pg_read_all_stats", "pg_signal_backend"]
        self.server.create_user(MONITOR.username, MONITOR.password, grants=rights)

    def limit(self, connections: int) -> None:
        """See `Kind.limit`."""
        self.server.execute(f"ALTER ROLE {WORKER.username} CONNECTION LIMIT {connections}")

    def opener(self, login: Login = WORKER, target: Target | None = None) -> postgresql_opener.Opener:
        """See `Kind.opener`."""
        secret = json.dumps({"username": login.username, "password": login.password})
        credentials = DatabaseCredentials(lambda *_, **__: secret, is_denied)
        attempts = partial(credentials.attempts, "arn")
        return postgresql_opener.Opener(target or self._target_of(login), attempts, SYSTEM_CLOCK)

    def raw(self) -> Any:  # noqa: ANN401 - see `Kind`
        """See `Kind.raw`."""
        return psycopg.connect(
            host=self.server.host,
            port=self.target.port,
            user=WORKER.username,
            password=WORKER.password,
            dbname=SCHEMA,
            sslmode="verify-full",
            sslrootcert=str(self.server.ca_path),
            **self.without_transaction,
        )

    def listed(self, number: int) -> bool:
        """See `Kind.listed`."""
        return self._counted("pid = %s", number) > 0

    def working(self, number: int) -> bool:
        """See `Kind.working`."""
        return self._counted("pid = %s AND state = 'active'", number) > 0

    def begin(self, session: Any, statement: str) -> None:  # noqa: ANN401 - see `Kind`
        """See `Kind.begin`."""
        session.pgconn.send_query(statement.encode())
        session.pgconn.flush()

    def finish(self, session: Any) -> None:  # noqa: ANN401 - see `Kind`
        """See `Kind.finish`."""
        while session.pgconn.get_result() is not None:
            pass

    def descriptors(self, session: Any) -> list[int]:  # noqa: ANN401 - see `Kind`
        """See `Kind.descriptors`."""
        return [session.pgconn.socket, session._wire.fileno()]

    def watch(self) -> AbstractContextManager[Watch]:
        """See `Kind.watch`."""
        return contextlib.closing(PostgreSQLWatch(lambda: self.opener(MONITOR), lambda: [WORKER.username]))

    def _administrator(self) -> Any:  # noqa: ANN401 - see `Kind`
        return self.server.root(SCHEMA)

    def _counted(self, condition: str, number: int) -> int:
        query = f"SELECT COUNT(*) FROM pg_stat_activity WHERE {condition}"
        return int(self._root.execute(query, (number,)).fetchone()[0])


KINDS: Final = {"mysql": MySQLKind, "mariadb": MariaDBKind, "postgresql": PostgreSQLKind}
"""By the name of the engine, which is also that of the fixture of its server."""
