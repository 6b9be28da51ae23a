"""What the seed makes on a real server: schema, users with the least rights, and the two budgets that must agree."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection, open_session
from connection_governor.server.mysql.administration import NAMES_UNKNOWN, ONLY_COUNTED, UNLIMITED, MySQLAdministration
from connection_governor.server.mysql.own_schema import SCHEMA
from connection_governor.server.mysql.sample_table import EMPLOYEES
from connection_governor.server.ports import SeedError
from connection_governor.server.seed import Seeder
from connection_governor.server.seed_properties import SeedProperties
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.core.deadline import Deadline
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

ADMINISTRATOR, WORKER, MONITOR = (
    Login(name, f"{name}Secret1") for name in ("seeding_admin", "seeded_worker", "seeded_monitor")
)


DEFINER = "'connection_governor'@'localhost'"
"""The locked account that MySQL's event runs as."""

LONG = Fence(idle_seconds=60)


class World:
    """A server, a table in memory, and the seed between them."""

    def __init__(self, server: MySQLFamilyServer) -> None:
        assert server.port is not None
        self.server = server
        self.clock = VirtualClock()
        self.operations = Operations(store := MemoryStore(), self.clock, SetEntropy())
        self.engine = Engine(store, self.clock, SetEntropy())
        self.seeder = Seeder(MySQLAdministration(self._fetch), self.operations, self.clock)
        self.target = Target(server.host, server.port, tls_ca=str(server.ca_path))
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
            schema="company",
            administrator_secret=ADMINISTRATOR.username,
            worker_secret=WORKER.username,
            monitor_secret=MONITOR.username,
            users=(WORKER.username, MONITOR.username),
            removes=True,
        )

    def _fetch(self, arn: str, _deadline: Deadline | None = None) -> str:
        known = {user.username: user for user in (ADMINISTRATOR, WORKER, MONITOR)}[arn]
        return json.dumps({"username": known.username, "password": known.password})

    def sign_in(self, user: Login) -> FencedConnection:
        """Return a session of a seeded user."""
        return open_session(replace(self.target, database="company"), user)

    def limit(self) -> int:
        """Return MySQL's own limit for the worker."""
        (limit,) = self.ask("SELECT max_user_connections FROM mysql.user WHERE user = %s", WORKER.username)
        assert isinstance(limit, int)
        return limit

    def ask(self, query: str, *values: object) -> tuple[object, ...]:
        """Return the first row that root reads."""
        with contextlib.closing(self.server.root()) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchone() or ()


@pytest.fixture
def world(database_server: MySQLFamilyServer) -> Iterator[World]:
    """Yield a server that was not seeded yet; nothing of it is left."""
    database_server.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password, grants=["ALL ON *.*"])
    database_server.execute(f"GRANT GRANT OPTION ON *.* TO '{ADMINISTRATOR.username}'@'%'")
    yield World(database_server)
    users = ", ".join(f"'{user.username}'@'%'" for user in (ADMINISTRATOR, WORKER, MONITOR))
    database_server.execute(
        "DROP DATABASE IF EXISTS company",
        f"DROP DATABASE IF EXISTS {SCHEMA}",
        f"DROP USER IF EXISTS {DEFINER}, {users}",
    )


def test_seeding_twice_is_seeding_once(world: World) -> None:
    """The published sample inserted its rows again with each update of the stack."""
    world.seeder.make(world.wanted)
    world.seeder.make(world.wanted, replaces=world.wanted)
    with contextlib.closing(world.sign_in(WORKER)) as session, session.cursor() as cursor:
        cursor.execute("SELECT * FROM Employees ORDER BY EmployeeID")
        assert cursor.fetchall() == EMPLOYEES
    assert world.operations.status("orders").settings.allowed == world.limit() == 5


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM Employees", "SELECT * FROM mysql.user", "CREATE TABLE company.other (id INT)", "FLUSH STATUS"],
)
def test_the_worker_may_read_its_table_and_no_more(statement: str, world: World) -> None:
    """A worker that is broken into must not reach what it does not need."""
    world.seeder.make(world.wanted)
    with (
        contextlib.closing(world.sign_in(WORKER)) as session,
        session.cursor() as cursor,
        pytest.raises(err.MySQLError) as refused,
    ):
        cursor.execute(statement)
    assert refused.value.args[0] in {1044, 1142, 1227}


@pytest.mark.parametrize("user", [WORKER, MONITOR])
def test_users_may_not_connect_in_plain_text(user: Login, world: World) -> None:
    """One worker without TLS would show its password to the network."""
    world.seeder.make(world.wanted)
    with pytest.raises(err.OperationalError) as refused:
        open_session(replace(world.target, tls="off"), user)
    assert refused.value.args[0] == 1045


def test_one_connection_too_many_is_refused_by_mysql_itself(world: World) -> None:
    """The demo's proof: an over-grant would show as error 1226, and could not hide between two samples."""
    world.seeder.make(replace(world.wanted, allowed=2))
    with contextlib.ExitStack() as sessions:
        for _ in range(2):
            sessions.callback(world.sign_in(WORKER).close)
        with pytest.raises(err.OperationalError) as refused:
            world.sign_in(WORKER)
    assert refused.value.args[0] == 1226


def test_the_janitors_user_may_see_and_end_the_workers_sessions_and_read_no_data(world: World) -> None:
    """Without these rights an overdue session stays; with more, the janitor's secret opens the data."""
    world.seeder.make(world.wanted)
    session = world.sign_in(WORKER)
    target = replace(world.target, database=None)
    with contextlib.closing(open_session(target, MONITOR)) as monitor, monitor.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM performance_schema.session_connect_attrs")
        cursor.execute("KILL CONNECTION %s", (session.thread_id(),))
        with pytest.raises(err.MySQLError):
            cursor.execute("SELECT * FROM company.Employees")
    assert not session.is_alive()


def test_an_administrator_who_may_not_grant_the_right_to_end_sessions_still_seeds(world: World) -> None:
    """A managed server may keep that right to itself: the governor works without it, and the seed reports that."""
    assert world.seeder.make(world.wanted) == ()
    account = f"'{ADMINISTRATOR.username}'@'%'"
    if world.server.is_mariadb:
        world.server.execute(f"REVOKE CONNECTION ADMIN ON *.* FROM {account}")
    else:  # on MySQL an administrator that may write to the schema `mysql` may grant everything
        world.server.execute(
            f"REVOKE ALL, GRANT OPTION FROM {account}",
            f"GRANT SELECT, PROCESS, CREATE USER, EXECUTE ON *.* TO {account} WITH GRANT OPTION",
            *(f"GRANT ALL ON {schema}.* TO {account} WITH GRANT OPTION" for schema in ("company", SCHEMA)),
        )
    world.server.execute(f"DROP USER '{MONITOR.username}'@'%'")
    first, *others = world.seeder.make(world.wanted)
    assert first == ONLY_COUNTED
    assert all(note.startswith(UNLIMITED) for note in others)  # MySQL's event needs that right as well
    assert world.operations.status("orders").settings.allowed == 5


def test_raising_the_budget_raises_mysqls_limit_with_it(world: World) -> None:
    """A grant above MySQL's limit would end in error 1226 in the worker."""
    world.seeder.make(world.wanted)
    world.seeder.make(replace(world.wanted, allowed=9))
    assert (world.operations.status("orders").settings.allowed, world.limit()) == (9, 9)


def test_lowering_waits_for_the_holders_before_mysqls_limit_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that has its lease but not yet its session would be refused by MySQL, though it did everything right."""
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
    """The governor would grant what MySQL refuses: error 1040 in every worker."""
    world.seeder.make(world.wanted)
    with pytest.raises(SeedError, match="AllowedConnections is 18, but the server takes 20"):
        world.seeder.make(replace(world.wanted, allowed=18))
    assert (world.operations.status("orders").settings.allowed, world.limit()) == (5, 5)


def test_a_wrong_password_of_the_administrator_is_reported_without_showing_it(world: World) -> None:
    """The reason goes to CloudFormation's events, which many can read."""
    world.server.execute(f"ALTER USER '{ADMINISTRATOR.username}'@'%' IDENTIFIED BY 'another'")
    with pytest.raises(SeedError, match="cannot connect to MySQL as the administrator") as failed:
        world.seeder.make(world.wanted)
    assert ADMINISTRATOR.password not in str(failed.value)


@pytest.mark.parametrize("removes", [False, True])
def test_deleting_keeps_or_removes_as_asked(removes: bool, world: World) -> None:
    """Data to keep must stay, and data to remove must not cost storage."""
    world.seeder.make(world.wanted)
    world.seeder.remove(replace(world.wanted, removes=removes))
    left = world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'")
    users = world.ask("SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'seeded%%'")
    assert (left, users) == (((0,), (0,)) if removes else ((1,), (2,)))


def test_removing_ends_the_sessions_of_the_users_that_go(world: World) -> None:
    """A frozen worker's open transaction holds up the drop of the table, and the stack cannot be deleted."""
    world.seeder.make(world.wanted)
    with contextlib.closing(open_session(replace(world.target, database="company"), WORKER, LONG)) as frozen:
        frozen.query("SELECT COUNT(*) FROM Employees")
        world.seeder.remove(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'") == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE company.orders (id INT)",
        "CREATE TABLE company.employees (id INT)",
        "CREATE VIEW company.orders AS SELECT 1",
        "CREATE PROCEDURE company.orders() SELECT 1",
        "CREATE FUNCTION company.orders() RETURNS INT DETERMINISTIC RETURN 1",
        "CREATE EVENT company.orders ON SCHEDULE EVERY 1 DAY DO SET @x = 1",
    ],
)
def test_removing_leaves_a_schema_that_holds_something_else(statement: str, world: World) -> None:
    """A brought database holds the owner's own tables and programs, of which there may be no other copy."""
    world.seeder.make(world.wanted)
    world.server.execute(statement)
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'") == (1,)
    seeded = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'company' AND BINARY table_name = %s"
    assert world.ask(seeded, "Employees") == (0,)


def test_removing_leaves_an_empty_schema_that_was_there_before(world: World) -> None:
    """Its owner has grants and a character set on it."""
    world.server.execute("CREATE DATABASE company")
    world.seeder.make(world.wanted)
    world.seeder.make(world.wanted, replaces=world.wanted)
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'") == (1,)
    assert world.ask("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'company'") == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE company.Employees (EmployeeID INT, FirstName VARCHAR(9), LastName VARCHAR(9)) COMMENT 'payroll'",
        "CREATE VIEW company.Employees AS SELECT 9 AS EmployeeID",
    ],
)
def test_a_table_that_was_there_before_gets_no_rows_and_is_never_dropped(statement: str, world: World) -> None:
    """`Employees` is a likely name for a real payroll."""
    world.server.execute("CREATE DATABASE company", statement)
    before = world.ask("SELECT COUNT(*) FROM company.Employees")
    world.seeder.make(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM company.Employees") == before
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM company.Employees") == before


def test_rows_that_were_deleted_do_not_come_back(world: World) -> None:
    """The table is filled once, when it is made: an update of the stack writes nothing into it."""
    world.seeder.make(world.wanted)
    world.server.execute("DELETE FROM company.Employees")
    world.seeder.make(world.wanted, replaces=world.wanted)
    assert world.ask("SELECT COUNT(*) FROM company.Employees") == (0,)


def test_removing_twice_is_removing_once(world: World) -> None:
    """CloudFormation repeats a deletion whose answer it did not get."""
    world.seeder.make(world.wanted)
    world.seeder.remove(world.wanted)
    world.seeder.remove(world.wanted)
    assert world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'") == (0,)


def test_a_renamed_worker_leaves_no_old_user_behind(world: World) -> None:
    """A forgotten account with a password is still a way in."""
    world.server.execute("CREATE USER 'seeded_before'@'%'")
    before = replace(world.wanted, users=("seeded_before", MONITOR.username))
    world.seeder.make(world.wanted, replaces=before)
    assert world.ask("SELECT COUNT(*) FROM mysql.user WHERE user = 'seeded_before'") == (0,)


def test_without_the_example_there_is_no_table(world: World) -> None:
    """A production database is no place for a sample's table."""
    world.seeder.make(replace(world.wanted, with_example=False))
    assert world.ask("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'company'") == (0,)
    assert world.limit() == 5


STATEMENTS = ("SELECT * FROM company.bills", "INSERT INTO company.bills VALUES (1)", "DELETE FROM company.bills")


@pytest.mark.parametrize(("rights", "may"), [("none", 0), ("read", 1), ("write", 3)])
def test_the_worker_may_do_in_the_schema_what_was_asked_for(rights: str, may: int, world: World) -> None:
    """No operator can reach a created database to grant it by hand; and a revoked right must be gone."""
    world.server.execute("CREATE DATABASE company", "CREATE TABLE company.bills (id INT)")
    world.seeder.make(replace(world.wanted, with_example=False, rights="write"))
    world.seeder.make(replace(world.wanted, with_example=False, rights=rights))
    target = replace(world.target, database=None)
    allowed = 0
    with contextlib.closing(open_session(target, WORKER)) as session, session.cursor() as cursor:
        for statement in STATEMENTS:
            with contextlib.suppress(err.OperationalError):
                cursor.execute(statement)
                allowed += 1
    assert allowed == may


def test_a_schemas_underscore_is_no_wildcard(world: World) -> None:
    """`shop_a` in a grant also means `shopxa`, which another user owns."""
    wanted = replace(world.wanted, with_example=False, schema="shop_a", rights="read")
    world.server.execute("CREATE DATABASE shopxa", "CREATE TABLE shopxa.bills (id INT)")
    try:
        world.seeder.make(wanted)
        target = replace(world.target, database=None)
        with (
            contextlib.closing(open_session(target, WORKER)) as session,
            session.cursor() as cursor,
            pytest.raises(err.OperationalError) as refused,
        ):
            cursor.execute("SELECT * FROM shopxa.bills")
        assert refused.value.args[0] == 1142
    finally:
        world.server.execute("DROP DATABASE shopxa", "DROP DATABASE IF EXISTS shop_a")


def test_a_password_that_another_account_shadows_fails_the_seed(world: World) -> None:
    """Every worker would be refused (1045), though the deployment succeeded."""
    world.server.execute(f"CREATE USER '{WORKER.username}'@'127.0.0.1' IDENTIFIED BY 'another'")
    try:
        with pytest.raises(SeedError, match=f"refuses the password of {WORKER.username}") as failed:
            world.seeder.make(world.wanted)
    finally:
        world.server.execute(f"DROP USER '{WORKER.username}'@'127.0.0.1'")
    assert WORKER.password not in str(failed.value)


def test_a_worker_whose_limit_is_used_up_does_not_fail_the_seed(world: World) -> None:
    """A deployment under full load must not roll back."""
    world.seeder.make(replace(world.wanted, allowed=2))
    with contextlib.ExitStack() as sessions:
        for _ in range(2):
            sessions.callback(world.sign_in(WORKER).close)
        assert world.seeder.make(replace(world.wanted, allowed=2)) == ()


def test_a_server_that_cannot_be_reached_yet_is_tried_again(world: World) -> None:
    """A rule of a security group takes some seconds; giving up at once rolls a whole stack back."""
    with pytest.raises(SeedError, match="cannot connect to MySQL as the administrator"):
        world.seeder.make(replace(world.wanted, port=1))
    assert sum(world.clock.naps) == 30


def test_a_server_without_session_names_is_noted(new_server: type[MySQLFamilyServer]) -> None:
    """The janitor then ends nothing and its alarm is silent: the deployment must say so."""
    with new_server(max_connections=20, options=["--performance-schema=OFF"]) as server:
        server.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password, grants=["ALL ON *.*"])
        server.execute(f"GRANT GRANT OPTION ON *.* TO '{ADMINISTRATOR.username}'@'%'")
        world = World(server)
        unlimited = () if server.is_mariadb else (UNLIMITED + "performance_schema is off",)
        assert world.seeder.make(world.wanted) == (NAMES_UNKNOWN, *unlimited)


def test_the_limits_procedure_comes_and_goes_with_the_seed(world: World) -> None:
    """A schema of unknown origin stays in a user's database."""
    world.seeder.make(world.wanted)
    count = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'connection_governor'"
    assert world.ask(count) == (1,)
    world.seeder.remove(world.wanted)
    assert world.ask(count) == (0,)
