"""What the seed makes on a real PostgreSQL, signed in as RDS's administrator would be: no superuser."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors, sql

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.server.ports import SeedError
from connection_governor.server.postgresql.administration import ONLY_COUNTED, RIGHTS_PARTIAL, PostgreSQLAdministration
from connection_governor.server.postgresql.sample_table import EMPLOYEES
from connection_governor.server.seed import Seeder
from connection_governor.server.seed_properties import SeedProperties
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

    from connection_governor.core.deadline import Deadline
    from harness.stack.postgresql import PrivatePostgreSQL

ADMINISTRATOR, WORKER, MONITOR = (
    Login(name, f"{name}Sécret'1") for name in ("seeding_admin", "seeded_worker", "seeded_monitor")
)
COMPANY, OTHERS = "company", "accounts_owner"


class World:
    """A server, a table in memory, and the seed between them."""

    def __init__(self, server: PrivatePostgreSQL) -> None:
        assert server.port is not None
        self.server = server
        self.clock = VirtualClock()
        self.operations = Operations(store := MemoryStore(), self.clock, SetEntropy())
        self.engine = Engine(store, self.clock, SetEntropy())
        self.seeder = Seeder(PostgreSQLAdministration(self._fetch), self.operations, self.clock)
        self.wanted = SeedProperties(
            database="orders",
            allowed=5,
            lease_ms=30_000,
            skew_ms=1_000,
            anonymous_lease_ms=900_000,
            host=server.host,
            port=server.port,
            tls="verify",
            tls_ca=str(server.ca_path),
            schema=COMPANY,
            administrator_secret=ADMINISTRATOR.username,
            worker_secret=WORKER.username,
            monitor_secret=MONITOR.username,
            users=(WORKER.username, MONITOR.username),
            removes=True,
        )

    def _fetch(self, arn: str, _deadline: Deadline | None = None) -> str:
        known = {user.username: user for user in (ADMINISTRATOR, WORKER, MONITOR)}[arn]
        return json.dumps({"username": known.username, "password": known.password})

    def sign_in(self, user: Login, database: str = COMPANY) -> Connection:
        """Return a session of a seeded user."""
        return psycopg.connect(
            host=self.server.host,
            port=self.server.port,
            user=user.username,
            password=user.password,
            dbname=database,
            sslmode="verify-full",
            sslrootcert=str(self.server.ca_path),
            autocommit=True,
        )

    def limit(self) -> int:
        """Return PostgreSQL's own limit for the worker."""
        (limit,) = self.ask("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", WORKER.username)
        assert isinstance(limit, int)
        return limit

    def ask(self, query: str, *values: object, database: str | None = None) -> tuple[object, ...]:
        """Return the first row that the superuser reads."""
        with contextlib.closing(self.server.root(database)) as connection:
            return connection.execute(query.encode(), values).fetchone() or ()

    def is_there(self) -> bool:
        """Return whether the database exists."""
        return self.ask("SELECT count(*) FROM pg_database WHERE datname = %s", COMPANY) == (1,)


@pytest.fixture
def world(postgresql: PrivatePostgreSQL) -> Iterator[World]:
    """Yield a server that was not seeded yet; nothing of it is left."""
    roles = (WORKER.username, MONITOR.username, ADMINISTRATOR.username, OTHERS, "seeded_before", "kept_back")
    _clear(postgresql, roles)
    postgresql.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password)
    postgresql.execute(f"ALTER ROLE {ADMINISTRATOR.username} CREATEROLE CREATEDB", f"CREATE ROLE {OTHERS}")
    yield World(postgresql)
    _clear(postgresql, roles)


def _clear(server: PrivatePostgreSQL, roles: tuple[str, ...]) -> None:
    server.execute(f"DROP DATABASE IF EXISTS {COMPANY} WITH (FORCE)")
    with contextlib.closing(server.root()) as root:
        for role in map(sql.Identifier, roles):
            with contextlib.suppress(errors.UndefinedObject):
                root.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
                root.execute(sql.SQL("DROP ROLE {}").format(role))


def test_seeding_twice_is_seeding_once(world: World) -> None:
    """The published sample inserted its rows again with each update of the stack."""
    world.seeder.make(world.wanted)
    assert world.seeder.make(world.wanted, replaces=world.wanted) == ()
    with contextlib.closing(world.sign_in(WORKER)) as session:
        assert tuple(session.execute("SELECT * FROM Employees ORDER BY EmployeeID").fetchall()) == EMPLOYEES
    assert world.operations.status("orders").settings.allowed == world.limit() == 5


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM Employees",
        "SELECT * FROM pg_authid",
        "CREATE TABLE other (id INT)",
        "CREATE TEMPORARY TABLE other (id INT)",
        "CREATE SCHEMA other",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT 100",
        f"SELECT connection_governor.limit_{WORKER.username}(100)",
        "SELECT pg_read_file('pg_hba.conf')",
    ],
)
def test_the_worker_may_read_its_table_and_no_more(statement: str, world: World) -> None:
    """A worker that is broken into must not reach what it does not need, such as its own limit."""
    world.seeder.make(world.wanted)
    with contextlib.closing(world.sign_in(WORKER)) as session, pytest.raises(errors.InsufficientPrivilege):
        session.execute(statement.encode())
    assert world.limit() == 5


def test_no_password_is_in_the_servers_log(world: World) -> None:
    """PostgreSQL logs statements as they were sent: a password in one stays readable long after its rotation."""
    world.server.execute("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    try:
        world.seeder.make(world.wanted)
    finally:
        world.server.execute("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
    written = world.server.log.read_text()
    assert "SCRAM-SHA-256$" in written
    assert WORKER.password.replace("'", "''") not in written
    assert WORKER.password not in written


def test_one_connection_too_many_is_refused_by_the_server_itself(world: World) -> None:
    """The demo's proof: an over-grant would show as error 53300, and could not hide between two samples."""
    world.seeder.make(replace(world.wanted, allowed=2))
    with contextlib.ExitStack() as sessions:
        for _ in range(2):
            sessions.callback(world.sign_in(WORKER).close)
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            world.sign_in(WORKER)


def test_the_janitors_role_may_see_and_end_the_workers_sessions_and_read_no_data(world: World) -> None:
    """Without these rights an overdue session stays; with more, the janitor's secret opens the data."""
    world.seeder.make(world.wanted)
    session = world.sign_in(WORKER)
    with contextlib.closing(world.sign_in(MONITOR)) as monitor:
        seen = monitor.execute("SELECT state FROM pg_stat_activity WHERE usename = %s", (WORKER.username,)).fetchone()
        assert seen == ("idle",)
        monitor.execute("SELECT pg_terminate_backend(%s, 5000)", (session.info.backend_pid,))
        with pytest.raises(errors.InsufficientPrivilege):
            monitor.execute("SELECT * FROM Employees")
        with pytest.raises(errors.InsufficientPrivilege):
            monitor.execute(f"SET ROLE {WORKER.username}".encode())
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()


def test_the_janitors_role_sets_the_limit_and_nothing_else(world: World) -> None:
    """CREATEROLE would let the janitor's secret change the administrator's password."""
    world.seeder.make(world.wanted)
    limit = f"connection_governor.limit_{WORKER.username}"
    with contextlib.closing(world.sign_in(MONITOR)) as monitor:
        monitor.execute(f"SELECT {limit}(9)".encode())
        assert world.limit() == 9
        for statement in (
            f"ALTER ROLE {WORKER.username} CONNECTION LIMIT 1",
            f"SELECT {limit}('1; DROP ROLE x')",
            f"DROP FUNCTION {limit}",
            "CREATE FUNCTION connection_governor.format(text, text, int) RETURNS text RETURN 'x'",
        ):
            with pytest.raises((errors.InsufficientPrivilege, errors.InvalidTextRepresentation)):
                monitor.execute(statement.encode())


def test_a_role_that_may_more_than_a_worker_is_refused(world: World) -> None:
    """The server holds no superuser to a limit: the last line of defence would be missing, in silence."""
    world.server.execute(f"CREATE ROLE {WORKER.username} SUPERUSER")
    with pytest.raises(SeedError, match="choose another name"):
        world.seeder.make(world.wanted)


def test_an_administrator_who_may_not_grant_the_right_to_end_sessions_still_seeds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A managed server may keep that right to itself: the governor works without it, and the seed reports that."""
    world.server.execute("CREATE ROLE kept_back SUPERUSER")
    monkeypatch.setattr("connection_governor.server.postgresql.administration._SIGNAL", "kept_back")
    assert world.seeder.make(world.wanted) == (ONLY_COUNTED,)
    assert world.operations.status("orders").settings.allowed == 5


def test_raising_the_budget_raises_the_servers_limit_with_it(world: World) -> None:
    """A grant above the server's limit would end in error 53300 in the worker."""
    world.seeder.make(world.wanted)
    world.seeder.make(replace(world.wanted, allowed=9))
    assert (world.operations.status("orders").settings.allowed, world.limit()) == (9, 9)


def test_lowering_waits_for_the_holders_before_the_servers_limit_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that has its lease but not yet its session would be refused, though it did everything right."""
    world.seeder.make(world.wanted)
    for number in range(5):
        ends_ms = world.clock.now_ms() + 4_000
        world.engine.acquire(Wanted("orders", f"lease00{number}", "shop/1", 1, ends_ms))
    limits = []
    sleep = world.clock.sleep

    def nap(seconds: float) -> None:
        limits.append((world.operations.status("orders").settings.allowed, world.limit()))
        sleep(seconds)

    monkeypatch.setattr(world.clock, "sleep", nap)
    world.seeder.make(replace(world.wanted, allowed=2))
    assert limits == [(2, 5)] * 4
    assert world.limit() == 2


def test_a_budget_that_the_server_cannot_hold_is_refused_and_changes_nothing(world: World) -> None:
    """Of 23 connections the server keeps 3 for superusers: the governor would grant what it refuses (53300)."""
    world.seeder.make(world.wanted)
    with pytest.raises(SeedError, match="AllowedConnections is 18, but the server takes 20"):
        world.seeder.make(replace(world.wanted, allowed=18))
    assert (world.operations.status("orders").settings.allowed, world.limit()) == (5, 5)


def test_a_wrong_password_of_the_administrator_is_reported_without_showing_it(world: World) -> None:
    """The reason goes to CloudFormation's events, which many can read. It is not tried seven times either."""
    world.server.execute(f"ALTER ROLE {ADMINISTRATOR.username} PASSWORD 'another'")
    with pytest.raises(SeedError, match="cannot connect to PostgreSQL as the administrator") as failed:
        world.seeder.make(world.wanted)
    assert ADMINISTRATOR.password not in str(failed.value)
    assert not world.clock.naps


def test_a_server_that_cannot_be_reached_yet_is_tried_again(world: World) -> None:
    """A rule of a security group takes some seconds; giving up at once rolls a whole stack back."""
    with pytest.raises(SeedError, match="cannot connect to PostgreSQL as the administrator"):
        world.seeder.make(replace(world.wanted, port=1))
    assert sum(world.clock.naps) == 30


def test_a_changed_secret_changes_the_password(world: World) -> None:
    """Rotation changes the secret: the seed is what brings it to the server."""
    world.seeder.make(world.wanted)
    world.server.execute(f"ALTER ROLE {WORKER.username} PASSWORD 'an older one'")
    world.seeder.make(world.wanted, replaces=world.wanted)
    world.sign_in(WORKER).close()


def test_a_worker_whose_limit_is_used_up_does_not_fail_the_seed(world: World) -> None:
    """A deployment under full load must not roll back."""
    world.seeder.make(replace(world.wanted, allowed=2))
    with contextlib.ExitStack() as sessions:
        for _ in range(2):
            sessions.callback(world.sign_in(WORKER).close)
        assert world.seeder.make(replace(world.wanted, allowed=2)) == ()


@pytest.mark.parametrize("removes", [False, True])
def test_deleting_keeps_or_removes_as_asked(removes: bool, world: World) -> None:
    """Data to keep must stay, and data to remove must not cost storage."""
    world.seeder.make(world.wanted)
    world.seeder.remove(replace(world.wanted, removes=removes))
    world.seeder.remove(replace(world.wanted, removes=removes))  # as CloudFormation does if it got no answer
    users = world.ask("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'seeded%%'")
    assert (world.is_there(), users) == ((False, (0,)) if removes else (True, (2,)))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE orders (id INT)",
        'CREATE TABLE "Employees" (id INT)',
        "CREATE VIEW orders AS SELECT 1",
        "CREATE FUNCTION orders() RETURNS INT RETURN 1",
        "CREATE TYPE orders AS ENUM ('a')",
        "CREATE SCHEMA orders",
        "CREATE EXTENSION hstore",
        "SELECT lo_create(0)",
    ],
)
def test_removing_leaves_a_database_that_holds_something_else(statement: str, world: World) -> None:
    """It may be the owner's own work, of which there is no other copy."""
    world.seeder.make(world.wanted)
    world.server.execute(statement, database=COMPANY)
    world.seeder.remove(world.wanted)
    assert world.is_there()
    assert world.ask("SELECT to_regclass('public.employees')", database=COMPANY) == (None,)
    assert world.ask("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'seeded%%'") == (0,)


def test_removing_leaves_an_empty_database_that_was_there_before(world: World) -> None:
    """Its owner has grants and settings on it."""
    world.server.execute(f"CREATE DATABASE {COMPANY} OWNER {ADMINISTRATOR.username}")
    world.seeder.make(world.wanted)
    world.seeder.make(world.wanted, replaces=world.wanted)
    world.seeder.remove(world.wanted)
    assert world.is_there()
    assert world.ask("SELECT to_regclass('public.employees')", database=COMPANY) == (None,)


def test_what_a_dropped_role_owns_is_kept(world: World) -> None:
    """A worker with an account of an earlier time may own tables: they must not go with it."""
    world.seeder.make(world.wanted)
    world.server.execute(
        "CREATE TABLE bills AS SELECT 7 AS id", f"ALTER TABLE bills OWNER TO {WORKER.username}", database=COMPANY
    )
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT id, tableowner FROM bills, pg_tables WHERE tablename = 'bills'", database=COMPANY) == (
        7,
        ADMINISTRATOR.username,
    )
    assert world.ask("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'seeded%%'") == (0,)


def test_a_role_that_another_database_needs_is_locked(world: World) -> None:
    """The deletion of a stack must not hang, and a forgotten role with a password is still a way in."""
    world.seeder.make(world.wanted)
    world.server.execute(f"GRANT CREATE ON DATABASE postgres TO {WORKER.username}")
    world.seeder.remove(world.wanted)
    assert not world.is_there()
    assert world.ask("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = %s", WORKER.username) == (
        False,
        None,
    )


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE Employees (EmployeeID INT, FirstName TEXT, LastName TEXT)",),
        ("CREATE VIEW Employees AS SELECT 9 AS EmployeeID",),
    ],
)
def test_a_table_that_was_there_before_gets_no_rows_and_is_never_dropped(
    statements: tuple[str, ...], world: World
) -> None:
    """`Employees` is a likely name for a real payroll."""
    world.server.execute(f"CREATE DATABASE {COMPANY} OWNER {ADMINISTRATOR.username}")
    world.server.execute(
        f"GRANT CREATE ON SCHEMA public TO {ADMINISTRATOR.username}",
        f"SET ROLE {ADMINISTRATOR.username}",
        *statements,
        database=COMPANY,
    )
    before = world.ask("SELECT count(*) FROM Employees", database=COMPANY)
    world.seeder.make(world.wanted)
    assert world.ask("SELECT count(*) FROM Employees", database=COMPANY) == before
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT count(*) FROM Employees", database=COMPANY) == before


def test_rows_that_were_deleted_do_not_come_back(world: World) -> None:
    """The table is filled once, when it is made: an update of the stack writes nothing into it."""
    world.seeder.make(world.wanted)
    world.server.execute("DELETE FROM Employees", database=COMPANY)
    world.seeder.make(world.wanted, replaces=world.wanted)
    assert world.ask("SELECT count(*) FROM Employees", database=COMPANY) == (0,)


def test_a_renamed_worker_leaves_no_old_role_behind(world: World) -> None:
    """A forgotten account with a password is still a way in, and so is the function that raises its limit."""
    before = replace(world.wanted, users=("seeded_before", MONITOR.username))
    world.server.execute("CREATE ROLE seeded_before LOGIN")
    world.seeder.make(world.wanted, replaces=before)
    assert world.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'seeded_before'") == (0,)


def test_without_the_example_there_is_no_table(world: World) -> None:
    """A production database is no place for a sample's table; but the worker must have something to sign in to."""
    world.seeder.make(replace(world.wanted, with_example=False))
    assert world.ask("SELECT to_regclass('public.employees')", database=COMPANY) == (None,)
    world.sign_in(WORKER).close()


STATEMENTS = ("SELECT * FROM {}", "INSERT INTO {} VALUES (DEFAULT, 1)", "UPDATE {} SET n = 1", "DELETE FROM {}")


@pytest.mark.parametrize(("rights", "may"), [("none", 0), ("read", 1), ("write", 4)])
def test_the_worker_may_do_with_all_tables_what_was_asked_for(rights: str, may: int, world: World) -> None:
    """No operator can reach a created database to grant it by hand; and a revoked right must be gone."""
    world.server.execute(f"CREATE DATABASE {COMPANY} OWNER {ADMINISTRATOR.username}")
    made = "CREATE TABLE {} (id SERIAL, n INT)"
    as_administrator = (f"SET ROLE {ADMINISTRATOR.username}", "CREATE SCHEMA IF NOT EXISTS sales")
    world.server.execute(*as_administrator, made.format("bills"), made.format("sales.orders"), database=COMPANY)
    world.seeder.make(replace(world.wanted, with_example=False, rights="write"))
    assert world.seeder.make(replace(world.wanted, with_example=False, rights=rights)) == ()
    world.server.execute(*as_administrator, made.format("sales.later"), database=COMPANY)
    with contextlib.closing(world.sign_in(WORKER)) as session:
        for table in ("bills", "sales.orders", "sales.later"):
            allowed = 0
            for statement in STATEMENTS:
                with contextlib.suppress(errors.InsufficientPrivilege):
                    session.execute(statement.format(table).encode())
                    allowed += 1
            assert allowed == may, table


def test_tables_of_an_owner_who_must_grant_are_noted(world: World) -> None:
    """The deployment succeeds, and the worker's first query fails: the log must say who can help."""
    world.server.execute(f"CREATE DATABASE {COMPANY} OWNER {ADMINISTRATOR.username}")
    world.server.execute("CREATE TABLE bills (id INT)", f"ALTER TABLE bills OWNER TO {OTHERS}", database=COMPANY)
    assert world.seeder.make(replace(world.wanted, rights="read")) == (RIGHTS_PARTIAL,)
    assert world.seeder.make(replace(world.wanted, rights="none")) == ()


def test_names_are_quoted(world: World) -> None:
    """The template's pattern lets a name begin with a digit, or have capital letters, or be a word of SQL."""
    world.server.execute('DROP DATABASE IF EXISTS "User"')
    wanted = replace(world.wanted, schema="User")
    try:
        world.seeder.make(wanted)
        world.sign_in(WORKER, "User").close()
        world.seeder.remove(wanted)
        assert world.ask("SELECT count(*) FROM pg_database WHERE datname = 'User'") == (0,)
    finally:
        world.server.execute('DROP DATABASE IF EXISTS "User" WITH (FORCE)')
