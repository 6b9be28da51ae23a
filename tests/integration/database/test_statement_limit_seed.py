"""The event that limits statements, as the seed makes it and the janitor checks it. On a real MySQL."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection, open_session
from connection_governor.server.mysql import statement_limit
from connection_governor.server.mysql.administration import SYSTEM_USERS, UNLIMITED, MySQLAdministration
from connection_governor.server.mysql.watch import MySQLWatch
from connection_governor.server.seed_properties import SeedProperties
from tests.support.database import SLACK_S, ask, opener_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.core.deadline import Deadline
    from harness.stack.mariadb import PrivateMariaDB
    from harness.stack.mysql import PrivateMySQL
    from harness.stack.mysql_family import MySQLFamilyServer

ADMINISTRATOR, WORKER, MONITOR = (
    Login(name, f"{name}Secret1") for name in ("master_user", "limited_worker", "limited_monitor")
)
NAME = "governor:k3Zq81Bd:orders#3"
FENCE = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
DEFINER = "'connection_governor'@'localhost'"
EVENT = f"connection_governor.statement_limit_{WORKER.username}"
# What RDS for MySQL documents of its master user from 8.0.36 on: no SUPER, no CONNECTION_ADMIN, no SYSTEM_USER.
MASTER = """
    SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, RELOAD, PROCESS, REFERENCES, INDEX, ALTER, SHOW DATABASES,
    CREATE TEMPORARY TABLES, LOCK TABLES, EXECUTE, REPLICATION SLAVE, REPLICATION CLIENT, CREATE VIEW, SHOW VIEW,
    CREATE ROUTINE, ALTER ROUTINE, CREATE USER, EVENT, TRIGGER, CREATE ROLE, DROP ROLE, APPLICATION_PASSWORD_ADMIN,
    ROLE_ADMIN, SET_ANY_DEFINER, XA_RECOVER_ADMIN
"""


class World:
    """A server, and the seed's administrator on it."""

    def __init__(self, server: MySQLFamilyServer) -> None:
        assert server.port is not None
        self.server = server
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
            with_example=False,
            governed_users=("billing",),
        )

    def seed(self) -> tuple[str, ...]:
        """Make the users and the event as the administrator; return what cannot be done."""
        with contextlib.closing(MySQLAdministration(self._fetch).connect(self.wanted)) as administrator:
            administrator.make_worker(limit=5)
            return tuple(administrator.make_monitor())

    def remove(self) -> None:
        """Remove what the seed made."""
        with contextlib.closing(MySQLAdministration(self._fetch).connect(self.wanted)) as administrator:
            administrator.remove()

    def _fetch(self, arn: str, _deadline: Deadline | None = None) -> str:
        known = {user.username: user for user in (ADMINISTRATOR, WORKER, MONITOR)}[arn]
        return json.dumps({"username": known.username, "password": known.password})

    def missing(self) -> str | None:
        """Return what the janitor finds."""
        opener = opener_for(self.target, MONITOR)
        watch = MySQLWatch(lambda: opener, lambda: [WORKER.username, "billing"])
        try:
            return watch.observe().statement_limit_missing
        finally:
            watch.close()

    def opened(self, login: Login = WORKER) -> FencedConnection:
        """Return a governed session."""
        return open_session(self.target, login, FENCE, program_name=NAME)

    def seconds_of(self, statement: str = "DO SLEEP(9)", login: Login = WORKER) -> float:
        """Return how long a governed statement lasts."""
        with contextlib.closing(self.opened(login)) as session:
            since = time.monotonic()
            with contextlib.suppress(pymysql.err.OperationalError):
                session.query(statement)
            return time.monotonic() - since

    def count(self, query: str) -> int:
        """Return the number that root reads."""
        with contextlib.closing(self.server.root()) as root:
            return int(ask(root, query))


@pytest.fixture
def world(mysql: PrivateMySQL) -> Iterator[World]:
    """Yield a server that was not seeded yet, with an administrator who may do all; nothing of it is left."""
    mysql.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password, grants=["ALL ON *.*"])
    mysql.execute(f"GRANT GRANT OPTION ON *.* TO '{ADMINISTRATOR.username}'@'%'")
    yield World(mysql)
    users = ", ".join(f"'{user.username}'@'%'" for user in (ADMINISTRATOR, WORKER, MONITOR))
    mysql.execute("DROP DATABASE IF EXISTS connection_governor", f"DROP USER IF EXISTS {DEFINER}, {users}")


def test_mariadb_needs_no_event_and_gets_none(mariadb: PrivateMariaDB) -> None:
    """Its own limit is for each statement; a note or an alarm there would be false."""
    mariadb.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password, grants=["ALL ON *.*"])
    mariadb.execute(f"GRANT GRANT OPTION ON *.* TO '{ADMINISTRATOR.username}'@'%'")
    world = World(mariadb)
    assert world.seed() == ()
    assert world.missing() is None
    assert world.count("SELECT COUNT(*) FROM information_schema.events") == 0
    world.remove()
    mariadb.execute(f"DROP USER '{ADMINISTRATOR.username}'@'%'")


@pytest.fixture
def rds(world: World) -> Iterator[World]:
    """Yield the same with the rights and procedures of RDS: the kill right is RDS's own."""
    mysql = world.server
    mysql.execute(
        "SET GLOBAL partial_revokes = ON",
        f"DROP USER '{ADMINISTRATOR.username}'@'%'",
        "CREATE ROLE rds_superuser_role",
        f"GRANT {MASTER} ON *.* TO rds_superuser_role WITH GRANT OPTION",
        "REVOKE INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, CREATE ROUTINE, EVENT, TRIGGER ON mysql.*"
        " FROM rds_superuser_role",
        *(
            f"CREATE PROCEDURE mysql.{name}(IN thread BIGINT) READS SQL DATA DETERMINISTIC BEGIN"
            " DECLARE l_user VARCHAR(32); DECLARE foo VARCHAR(255);"
            " SELECT user INTO l_user FROM information_schema.processlist WHERE id = thread;"
            " IF l_user = 'rdsadmin' THEN SELECT `ERROR (RDS): CANNOT KILL RDSADMIN SESSION` INTO foo;"
            f" ELSE {statement} thread; END IF; END"
            for name, statement in {"rds_kill": "KILL", "rds_kill_query": "KILL QUERY"}.items()
        ),
    )
    mysql.create_user(ADMINISTRATOR.username, ADMINISTRATOR.password)
    mysql.execute(
        f"GRANT rds_superuser_role TO '{ADMINISTRATOR.username}'@'%'",
        f"ALTER USER '{ADMINISTRATOR.username}'@'%' DEFAULT ROLE ALL",
    )
    yield world
    mysql.execute(
        "DROP PROCEDURE mysql.rds_kill",
        "DROP PROCEDURE mysql.rds_kill_query",
        "DROP ROLE rds_superuser_role",
        f"DROP USER IF EXISTS '{ADMINISTRATOR.username}'@'%', '{WORKER.username}'@'%', '{MONITOR.username}'@'%'",
        "SET GLOBAL partial_revokes = OFF",
    )


def settled(world: World) -> None:
    """Wait for the event's first run."""
    until = time.monotonic() + 3
    while not world.count("SELECT COUNT(*) FROM information_schema.events WHERE last_executed IS NOT NULL"):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_seeding_twice_is_seeding_once(world: World) -> None:
    """Each deployment repeats the seed."""
    assert world.seed() == ()
    assert world.seed() == ()
    assert world.missing() is None
    assert world.count("SELECT COUNT(*) FROM information_schema.events") == 1
    assert world.seconds_of() < 1.5 + SLACK_S


def test_removing_leaves_nothing_and_takes_nothing_from_another_stack(world: World) -> None:
    """Two stacks on one server: the first one's deletion would leave the other's statements without a limit."""
    with contextlib.closing(world.server.root()) as root, root.cursor() as cursor:
        world.server.create_user("another", "pw")
        world.seed()
        assert statement_limit.make(cursor, worker="another", monitor="another") is None
        world.remove()
        assert world.count("SELECT COUNT(*) FROM information_schema.events") == 1
        assert statement_limit.missing(cursor, worker="another") is None
        statement_limit.remove(cursor, worker="another")
        statement_limit.remove(cursor, worker="another")
    world.server.execute("DROP USER another")
    assert world.count("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name LIKE 'connection%%'") == 0
    assert world.count("SELECT COUNT(*) FROM mysql.user WHERE user = 'connection_governor'") == 0


def test_the_definer_may_do_what_the_event_needs_and_never_sign_in(world: World) -> None:
    """An account that may end every session is worth stealing."""
    world.seed()
    with contextlib.closing(world.server.root()) as root, root.cursor() as cursor:
        cursor.execute(f"SHOW GRANTS FOR {DEFINER}")
        granted = {row[0].split(" TO ")[0] for row in cursor.fetchall()}
        locked = ask(root, "SELECT account_locked FROM mysql.user WHERE user = 'connection_governor'")
    tables = ("threads", "events_statements_current", "session_connect_attrs", "variables_by_thread")
    assert locked == "Y"
    assert granted == {
        "GRANT USAGE ON *.*",
        "GRANT CONNECTION_ADMIN ON *.*",
        "GRANT EVENT ON `connection_governor`.*",
        f"GRANT EXECUTE ON PROCEDURE `connection_governor`.`statement_limit_state_{WORKER.username}`",
        *(f"GRANT SELECT ON `performance_schema`.`{table}`" for table in tables),
    }


def test_an_administrator_as_on_rds_makes_it_with_rdss_own_kill(rds: World) -> None:
    """RDS keeps CONNECTION_ADMIN to itself from 8.0.36 on."""
    assert rds.seed() == ()
    assert rds.missing() is None
    with contextlib.closing(rds.server.root()) as root:
        body = ask(root, "SELECT event_definition FROM information_schema.events")
    assert "rds_kill_query" in body
    assert rds.seconds_of() < 1.5 + SLACK_S
    rds.remove()


def test_the_next_statement_is_not_stopped_for_the_last_ones_time(rds: World) -> None:
    """Between the look and the kill a session may have gone on: a slow kill of one must not hit another's next."""
    rds.seed()
    first, second = rds.opened(), rds.opened()
    rds.server.execute(
        "DROP PROCEDURE mysql.rds_kill_query",
        "CREATE PROCEDURE mysql.rds_kill_query(IN thread BIGINT) BEGIN"
        f" IF thread = {first.thread_id()} THEN DO SLEEP(1.5); END IF; KILL QUERY thread; END",
        f"GRANT EXECUTE ON PROCEDURE mysql.rds_kill_query TO {DEFINER}",
    )
    first.query("SET max_execution_time = 100")
    second.query("SET max_execution_time = 100")
    busy = threading.Thread(target=lambda: first.query("DO SLEEP(5)"))
    busy.start()
    time.sleep(0.02)
    second.query("DO SLEEP(1.2)")  # seen together with the first, and over before the first is killed
    since = time.monotonic()
    second.query("SET max_execution_time = 60000")
    second.query("DO SLEEP(1.5)")
    assert time.monotonic() - since > 1.4
    busy.join()
    first.close()
    second.close()
    rds.remove()


def test_the_janitors_user_gets_every_right_to_end_sessions(rds: World) -> None:
    """`rds_kill` is refused at a full server, CONNECTION_ADMIN admitted; and an upgrade of RDS takes that away."""
    rds.server.execute(f"GRANT CONNECTION_ADMIN ON *.* TO '{ADMINISTRATOR.username}'@'%' WITH GRANT OPTION")
    rds.seed()
    with contextlib.closing(rds.server.root()) as root, root.cursor() as cursor:
        cursor.execute(f"SHOW GRANTS FOR '{MONITOR.username}'@'%'")
        granted = "; ".join(row[0] for row in cursor.fetchall())
    assert "CONNECTION_ADMIN ON *.*" in granted
    assert "EXECUTE ON PROCEDURE `mysql`.`rds_kill`" in granted
    rds.remove()


@pytest.fixture
def protected(world: World) -> Iterator[Login]:
    """Yield a governed user with a right that keeps others from interrupting its statements."""
    billing = Login("billing", "BillingSecret1")
    world.server.create_user(billing.username, billing.password, grants=["SYSTEM_USER ON *.*"])
    yield billing
    world.server.execute("DROP USER billing")


def test_a_user_that_the_event_may_not_interrupt_is_named_and_spares_no_other(world: World, protected: Login) -> None:
    """SYSTEM_USER protects a session from all who lack it: the seed must say so, and the rest be stopped."""
    assert world.seed() == (SYSTEM_USERS + protected.username,)
    with contextlib.closing(world.opened(protected)) as session:
        busy = threading.Thread(target=lambda: session.query("DO SLEEP(2.7)"))
        busy.start()
        assert world.seconds_of() < 1.5 + SLACK_S
        assert busy.is_alive()
        busy.join()


def test_a_user_that_has_the_right_by_a_role_is_named_too(world: World, protected: Login) -> None:
    """A role's right protects as much, and does not stand among the user's own."""
    world.server.execute(
        "CREATE ROLE protected",
        "GRANT SYSTEM_USER ON *.* TO protected",
        "REVOKE SYSTEM_USER ON *.* FROM billing",
        "GRANT protected TO billing",
    )
    try:
        assert world.seed() == (SYSTEM_USERS + protected.username,)
    finally:
        world.server.execute("DROP ROLE protected")


def test_what_keeps_the_event_from_being_made_is_a_note(world: World) -> None:
    """A deployment must not fail for a net that the server does not have."""
    world.server.execute("SET GLOBAL event_scheduler = OFF")
    try:
        assert world.seed() == (UNLIMITED + "event_scheduler is OFF",)
    finally:
        world.server.execute("SET GLOBAL event_scheduler = ON")
    world.server.execute(f"REVOKE SET_ANY_DEFINER, SUPER ON *.* FROM '{ADMINISTRATOR.username}'@'%'")
    assert world.seed() == (UNLIMITED + "the administrator may not make the event (error 1227)",)


BROKEN = {
    "no seed": (["DROP DATABASE connection_governor"], "the seed has not made the event here"),
    "no event": ([f"DROP EVENT {EVENT}"], "there is no event"),
    "another version": ([f"ALTER DEFINER = {DEFINER} EVENT {EVENT} COMMENT 'old'"], "the event is of version old, not"),
    "another definer": ([f"ALTER EVENT {EVENT} ENABLE"], "the event's definer is root@localhost"),
    "disabled": ([f"ALTER DEFINER = {DEFINER} EVENT {EVENT} DISABLE"], "the event is DISABLED"),
    "a replica's": (
        [f"ALTER DEFINER = {DEFINER} EVENT {EVENT} DISABLE ON REPLICA"],
        "the event is REPLICA_SIDE_DISABLED",
    ),
    "the definer gone": ([f"DROP USER {DEFINER}"], "the seed has not made the event here, or its definer was changed"),
    "the kill right gone": (
        [f"REVOKE CONNECTION_ADMIN ON *.* FROM {DEFINER}"],
        "the event's definer has lost the right to interrupt statements",
    ),
    "a right gone": (
        [f"REVOKE SELECT ON performance_schema.threads FROM {DEFINER}"],
        "the seed has not made the event here, or its definer was changed",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_janitor_sees_that_the_event_is_broken(how: str, world: World) -> None:
    """A net that has silently gone leaves statements without a limit, and nothing shows it until a lease is lost."""
    statements, reason = BROKEN[how]
    world.seed()
    assert world.missing() is None
    world.server.execute(*statements)
    assert (world.missing() or "").startswith(reason)


def test_the_janitor_sees_that_the_event_does_not_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler may be off, or stuck; and a server may record no statements."""
    world.seed()
    settled(world)
    monkeypatch.setattr(statement_limit, "SILENT_SECONDS", -1)
    assert (world.missing() or "").startswith("the event has not run for ")
    monkeypatch.undo()
    world.server.execute("SET GLOBAL event_scheduler = OFF")
    assert world.missing() == "event_scheduler is OFF"
    consumer = "UPDATE performance_schema.setup_consumers SET enabled = '{}' WHERE name = 'events_statements_current'"
    world.server.execute("SET GLOBAL event_scheduler = ON", consumer.format("NO"))
    try:
        assert world.missing() == "performance_schema does not record the running statements"
    finally:
        world.server.execute(consumer.format("YES"))


def test_the_janitor_sees_a_statement_that_runs_on_past_its_limit(world: World, protected: Login) -> None:
    """The event is there and runs, and cannot interrupt it."""
    world.seed()
    with contextlib.closing(world.opened(protected)) as session:
        session._execute_command(3, "DO SLEEP(7)")
        time.sleep(FENCE.statement_seconds + statement_limit.OVERRUN_SECONDS + 0.2)
        assert world.missing() == "1 statements run on past their limit"
