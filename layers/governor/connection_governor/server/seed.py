"""Seed a database: the schema, the worker's and the janitor's users in MySQL, and the budget in the table."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from pymysql import err
from pymysql.constants import CR, ER

from connection_governor.errors import UnknownDatabase
from connection_governor.mysql.connect import open_session
from connection_governor.mysql.credentials import DatabaseCredentials
from connection_governor.mysql.fence import Fence, SessionStart
from connection_governor.mysql.observe import keeps_names
from connection_governor.server import limit_procedure, sample_table

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

    from connection_governor.core.clock import Clock
    from connection_governor.core.operations import Operations
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.credentials import Fetch, Login
    from connection_governor.server.seed_properties import SeedProperties

ONLY_COUNTED: Final = "the administrator may not grant the right to end sessions: the janitor will only count them"
NAMES_UNKNOWN: Final = (
    "the server does not keep the names of sessions (performance_schema is off): the janitor will end none, "
    "and cannot tell sessions without a lease"
)
LIMIT_FIXED: Final = "the administrator may not create a procedure: `governor limit` will not work, deployments will"
DRAIN_SECONDS: Final = 60  # of the function's 240
RESERVED_CONNECTIONS: Final = 3  # of max_connections: the janitor's, a deployment's, an operator's
_PATIENT: Final = Fence(idle_seconds=120, statement_seconds=20)
_MONITOR_CONNECTIONS: Final = 3  # a round's, an operator's action, and one that MySQL has not yet seen closed
# A server that is new, that fails over, or whose security group was changed a second ago.
_NOT_YET_REACHED: Final = (ER.CON_COUNT_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST)
_CONNECT_TRIES: Final = 7
_CONNECT_PAUSE_SECONDS: Final = 5
# The right to end another user's session: MariaDB's name for it, MySQL's, and what RDS has in its place.
_KILL_RIGHTS: Final = ("CONNECTION ADMIN ON *.*", "CONNECTION_ADMIN ON *.*", "EXECUTE ON PROCEDURE mysql.rds_kill")
_RIGHTS: Final = {"none": (), "read": ("SELECT",), "write": ("SELECT", "INSERT", "UPDATE", "DELETE")}


class SeedError(Exception):
    """The database cannot be seeded as asked; the message is for the operator and holds no secret."""


class Seeder:
    """Creates, changes and removes a database's schema, users and budget; each method may be repeated.

    Args:
        fetch: from a secret's ARN to its string.
        operations: where the budget is set.
        clock: times the wait for connections to come back.
    """

    def __init__(self, fetch: Fetch, operations: Operations, clock: Clock) -> None:
        self._credentials = DatabaseCredentials(fetch)
        self._operations = operations
        self._clock = clock

    def make(self, wanted: SeedProperties, *, replaces: SeedProperties | None = None) -> tuple[str, ...]:
        """Create or change the schema, the users and the budget.

        Returns:
            What the janitor cannot do on this server. That loses no slot and grants none twice, but a statement that
            outlives its lease is only counted.

        Raises:
            SeedError: the server cannot be reached, cannot hold the budget, or refuses a password that was just set.

        A raised budget raises MySQL's own limit first. A lowered budget waits for today's holders to release before
        MySQL's limit follows, so that MySQL refuses no holder of a lease.
        """
        with closing(self._administrator(wanted)) as connection, connection.cursor() as cursor:
            _check_room(cursor, wanted.allowed)
            if wanted.with_example:
                sample_table.make(cursor, wanted.schema)
            before = self._allowed_now(wanted.database)
            self._make_worker(cursor, wanted, limit=max(before, wanted.allowed))
            may_kill = self._make_monitor(cursor, wanted)
            may_limit = _make_limit(cursor, wanted)
            self._operations.set_budget(
                wanted.database,
                wanted.allowed,
                lease_ms=wanted.lease_ms,
                skew_ms=wanted.skew_ms,
                anonymous_lease_ms=wanted.anonymous_lease_ms,
            )
            if before > wanted.allowed:
                self._drain(wanted)
                self._make_worker(cursor, wanted, limit=wanted.allowed)
            if replaces:
                _drop_users(cursor, set(replaces.users) - set(wanted.users))
                if replaces.users[0] != wanted.users[0]:
                    limit_procedure.remove(cursor, worker=replaces.users[0])
            names_known = keeps_names(cursor)
        for secret in (wanted.worker_secret, wanted.monitor_secret):
            self._check_sign_in(wanted, secret)
        can = {ONLY_COUNTED: may_kill, NAMES_UNKNOWN: names_known, LIMIT_FIXED: may_limit}
        return tuple(note for note, able in can.items() if not able)

    def remove(self, wanted: SeedProperties) -> None:
        """Drop the users, and the table and schema that the seed created; drop nothing if the data is to be kept."""
        if not wanted.removes:
            return
        with closing(self._administrator(wanted)) as connection, connection.cursor() as cursor:
            sample_table.remove(cursor, wanted.schema)
            limit_procedure.remove(cursor, worker=wanted.users[0])
            _drop_users(cursor, set(wanted.users))

    def _administrator(self, wanted: SeedProperties) -> FencedConnection:
        def connect(credentials: Login) -> FencedConnection:
            start = SessionStart(autocommit=True)
            return open_session(wanted.target, credentials, _PATIENT, program_name="governor-seed", start=start)

        for tries_left in reversed(range(_CONNECT_TRIES)):
            try:
                return self._credentials.sign_in(wanted.administrator_secret, connect)
            except err.MySQLError as refused:
                if tries_left == 0 or refused.args[0] not in _NOT_YET_REACHED:
                    raise SeedError(f"cannot connect to MySQL as the administrator: {refused.args}") from None
            self._clock.sleep(_CONNECT_PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _check_sign_in(self, wanted: SeedProperties, secret: str) -> None:
        """Sign in as a user that was just made: an account for a narrower host would take precedence."""
        credentials = self._credentials.get(secret)
        try:
            open_session(wanted.target, credentials, program_name="governor-seed").close()
        except err.MySQLError as refused:
            if refused.args[0] == ER.ACCESS_DENIED_ERROR:
                raise SeedError(
                    f"MySQL refuses the password of {credentials.username} that was just set: "
                    "is there another account of that name, for a narrower host than '%'?"
                ) from None
            # Any other error, such as a limit that is used up, says nothing about the password.

    def _allowed_now(self, database: str) -> int:
        try:
            return self._operations.status(database).settings.allowed
        except UnknownDatabase:
            return 0

    def _drain(self, wanted: SeedProperties) -> None:
        for _ in range(DRAIN_SECONDS):
            held = self._operations.status(wanted.database).leases()
            now_ms = self._clock.now_ms()  # an expired lease no longer has a session
            if sum(lease.connections for lease in held if lease.expires_at_ms > now_ms) <= wanted.allowed:
                return
            self._clock.sleep(1)

    def _make_worker(self, cursor: Cursor, wanted: SeedProperties, *, limit: int) -> None:
        user = self._make_user(cursor, wanted.worker_secret, wanted.transport, limit)
        if wanted.with_example:
            cursor.execute(f"GRANT SELECT ON `{wanted.schema}`.`Employees` TO %s@'%%'", (user,))
        _grant_schema(cursor, user, wanted.schema, wanted.rights)

    def _make_monitor(self, cursor: Cursor, wanted: SeedProperties) -> bool:
        user = self._make_user(cursor, wanted.monitor_secret, wanted.transport, _MONITOR_CONNECTIONS)
        cursor.execute("GRANT PROCESS ON *.* TO %s@'%%'", (user,))
        cursor.execute("GRANT SELECT ON performance_schema.* TO %s@'%%'", (user,))
        for right in _KILL_RIGHTS:
            with suppress(err.MySQLError):  # each server knows only one of them
                cursor.execute(f"GRANT {right} TO %s@'%%'", (user,))
                return True
        return False

    def _make_user(self, cursor: Cursor, secret: str, transport: str, limit: int) -> str:
        credentials = self._credentials.get(secret)
        named = (credentials.username, credentials.password)
        cursor.execute("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", named)
        cursor.execute(f"ALTER USER %s@'%%' IDENTIFIED BY %s {transport} WITH MAX_USER_CONNECTIONS {limit:d}", named)
        return credentials.username


def _check_room(cursor: Cursor, allowed: int) -> None:
    cursor.execute("SELECT @@GLOBAL.max_connections")
    (room,) = cursor.fetchone() or (0,)
    if allowed > room - RESERVED_CONNECTIONS:
        raise SeedError(
            f"AllowedConnections is {allowed}, but the server takes {room} in all (max_connections), "
            f"of which {RESERVED_CONNECTIONS} are for the janitor, a deployment and an operator"
        )


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
