"""The administrator's statements on MySQL and MariaDB: users with the least rights, and what they need."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pymysql import err
from pymysql.constants import CR, ER

from connection_governor.database.credentials import DatabaseCredentials
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import is_denied, open_session
from connection_governor.mysql.fence import SessionStart
from connection_governor.mysql.observe import end, keeps_names, observe
from connection_governor.server.mysql import limit_procedure, sample_table, statement_limit
from connection_governor.server.ports import SeedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pymysql.cursors import Cursor

    from connection_governor.database.credentials import Fetch, Login
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.server.seed_properties import SeedProperties

ONLY_COUNTED: Final = "the administrator may not grant the right to end sessions: the janitor will only count them"
NAMES_UNKNOWN: Final = (
    "the server does not keep the names of sessions (performance_schema is off): the janitor will end none, "
    "and cannot tell sessions without a lease"
)
LIMIT_FIXED: Final = "the administrator may not create a procedure: `governor limit` will not work, deployments will"
UNLIMITED: Final = "on this server only a SELECT is stopped at its time limit, because "
SYSTEM_USERS: Final = (
    "the right SYSTEM_USER keeps a user's statements from being stopped at their time limit; it is held by "
)
_PATIENT: Final = Fence(idle_seconds=120, statement_seconds=20)
_MONITOR_CONNECTIONS: Final = 3  # a round's, an operator's action, and one that MySQL has not yet seen closed
# A server that is new, that fails over, or whose security group was changed a second ago.
_NOT_YET_REACHED: Final = (ER.CON_COUNT_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
# The right to end another user's session: MariaDB's name for it, MySQL's, and what RDS has in its place. Where a server
# knows two, both are granted: whom the first admits finds a place even if `max_connections` is used up.
_KILL_RIGHTS: Final = ("CONNECTION ADMIN ON *.*", "CONNECTION_ADMIN ON *.*", "EXECUTE ON PROCEDURE mysql.rds_kill")
_RIGHTS: Final = {"none": (), "read": ("SELECT",), "write": ("SELECT", "INSERT", "UPDATE", "DELETE")}


class MySQLAdministration:
    """See `ports.Administration`.

    Args:
        fetch: from a secret's ARN to its string.
    """

    name = "MySQL"
    error: type[Exception] = err.MySQLError
    room = "max_connections"

    def __init__(self, fetch: Fetch) -> None:
        self._credentials = DatabaseCredentials(fetch, is_denied)

    def connect(self, wanted: SeedProperties) -> MySQLAdministrator:
        """Sign in as the administrator. Raises `pymysql.err.MySQLError`."""

        def connect(credentials: Login) -> FencedConnection:
            start = SessionStart(autocommit=True)
            return open_session(_target(wanted), credentials, _PATIENT, program_name="governor-seed", start=start)

        session = self._credentials.sign_in(wanted.administrator_secret, connect)
        return MySQLAdministrator(session, self._credentials, wanted)

    def may_answer_later(self, refused: Exception) -> bool:
        """Return whether the server is new, full, fails over, or was not reachable a second ago."""
        return refused.args[0] in _NOT_YET_REACHED

    def check_sign_in(self, wanted: SeedProperties, secret: str) -> None:
        """Sign in as a user that was just made: an account for a narrower host would take precedence."""
        credentials = self._credentials.get(secret)
        try:
            open_session(_target(wanted), credentials, program_name="governor-seed").close()
        except err.MySQLError as refused:
            if refused.args[0] == ER.ACCESS_DENIED_ERROR:
                raise SeedError(
                    f"MySQL refuses the password of {credentials.username} that was just set: "
                    "is there another account of that name, for a narrower host than '%'?"
                ) from None
            # Any other error, such as a limit that is used up, says nothing about the password.


class MySQLAdministrator:
    """See `ports.Administrator`.

    Args:
        session: the administrator's.
        credentials: the environment's cache of secrets.
        wanted: what is to be made or removed.
    """

    def __init__(self, session: FencedConnection, credentials: DatabaseCredentials, wanted: SeedProperties) -> None:
        self._session = session
        self._cursor = session.cursor()
        self._credentials = credentials
        self._wanted = wanted

    def room(self) -> int:
        """Return `max_connections`."""
        self._cursor.execute("SELECT @@GLOBAL.max_connections")
        (room,) = self._cursor.fetchone() or (0,)
        return int(room)

    def make_sample(self) -> None:
        """Create and fill the example's table where there is none."""
        sample_table.make(self._cursor, self._wanted.schema)

    def make_worker(self, *, limit: int) -> tuple[str, ...]:
        """Create or change the worker's user, its rights and its limit; it can do all that it should."""
        wanted = self._wanted
        user = self._make_user(wanted.worker_secret, limit)
        if wanted.with_example:
            self._cursor.execute(f"GRANT SELECT ON `{wanted.schema}`.`Employees` TO %s@'%%'", (user,))
        _grant_schema(self._cursor, user, wanted.schema, wanted.rights)
        return ()

    def make_monitor(self) -> tuple[str, ...]:
        """Create or change the monitoring user, its rights and the limit's procedure; return what it cannot do."""
        user = self._make_user(self._wanted.monitor_secret, _MONITOR_CONNECTIONS)
        self._cursor.execute("GRANT PROCESS ON *.* TO %s@'%%'", (user,))
        self._cursor.execute("GRANT SELECT ON performance_schema.* TO %s@'%%'", (user,))
        can = {
            ONLY_COUNTED: _may_kill(self._cursor, user),
            NAMES_UNKNOWN: keeps_names(self._cursor),
            LIMIT_FIXED: _make_limit(self._cursor, self._wanted),
        }
        return (*(note for note, able in can.items() if not able), *self._limit_statements())

    def _limit_statements(self) -> Iterator[str]:
        """Have MySQL stop every kind of statement at its limit, as MariaDB does by itself; yield what it cannot."""
        if self._session.is_mariadb:
            return
        wanted = self._wanted
        worker, monitor = wanted.users
        if (reason := statement_limit.make(self._cursor, worker=worker, monitor=monitor)) is not None:
            yield UNLIMITED + reason
        elif beyond := statement_limit.beyond_its_reach(self._cursor, {worker, *wanted.governed_users}):
            yield SYSTEM_USERS + ", ".join(beyond)

    def leave(self, replaced: tuple[str, str]) -> None:
        """Drop the earlier users and the earlier worker's programs, where they have other names now."""
        users = self._wanted.users
        _drop_users(self._cursor, set(replaced) - set(users))
        if replaced[0] != users[0]:
            statement_limit.remove(self._cursor, worker=replaced[0])
            limit_procedure.remove(self._cursor, worker=replaced[0])

    def remove(self) -> None:
        """Drop the users, their programs, and the table and schema that the seed created.

        Their sessions end first: one with an open transaction would hold up the drop of the table until it fails.
        """
        self._end_sessions(self._wanted.users)
        sample_table.remove(self._cursor, self._wanted.schema)
        statement_limit.remove(self._cursor, worker=self._wanted.users[0])
        limit_procedure.remove(self._cursor, worker=self._wanted.users[0])
        _drop_users(self._cursor, set(self._wanted.users))

    def _end_sessions(self, users: Collection[str]) -> None:
        with suppress(err.MySQLError):  # without the right to, the drops wait for the sessions' own end
            for session in observe(self._session, users).sessions:
                end(self._session, session)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _make_user(self, secret: str, limit: int) -> str:
        credentials = self._credentials.get(secret)
        named = (credentials.username, credentials.password)
        transport = "REQUIRE NONE" if self._wanted.tls == "off" else "REQUIRE SSL"
        self._cursor.execute("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", named)
        self._cursor.execute(
            f"ALTER USER %s@'%%' IDENTIFIED BY %s {transport} WITH MAX_USER_CONNECTIONS {limit:d}", named
        )
        return credentials.username


def _target(wanted: SeedProperties) -> Target:
    return Target(host=wanted.host, port=wanted.port, tls=wanted.tls, tls_ca=wanted.tls_ca)


def _may_kill(cursor: Cursor, user: str) -> bool:
    granted = False
    for right in _KILL_RIGHTS:
        with suppress(err.MySQLError):  # no server knows all of them
            cursor.execute(f"GRANT {right} TO %s@'%%'", (user,))
            granted = True
    return granted


def _grant_schema(cursor: Cursor, user: str, schema: str, rights: str) -> None:
    """Grant the worker `rights` on the whole schema, and revoke what an earlier seed granted beyond them."""
    pattern = schema.replace("_", r"\_")  # an underscore in a grant stands for any character
    wanted = _RIGHTS[rights]
    if wanted:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{schema}`")
        cursor.execute(f"GRANT {', '.join(wanted)} ON `{pattern}`.* TO %s@'%%'", (user,))
    beyond = [right for right in _RIGHTS["write"] if right not in wanted]
    if beyond:
        with suppress(err.MySQLError):  # 1141: there was no grant
            cursor.execute(f"REVOKE {', '.join(beyond)} ON `{pattern}`.* FROM %s@'%%'", (user,))


def _make_limit(cursor: Cursor, wanted: SeedProperties) -> bool:
    worker, monitor = wanted.users
    try:
        limit_procedure.make(cursor, worker=worker, monitor=monitor)
    except err.MySQLError:
        return False
    return True


def _drop_users(cursor: Cursor, users: set[str]) -> None:
    for user in users:
        cursor.execute("DROP USER IF EXISTS %s@'%%'", (user,))
