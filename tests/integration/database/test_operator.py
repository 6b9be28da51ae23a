"""What the janitor's user can do on a real server for an operator whom nothing else lets in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from connection_governor.server.mysql import limit_procedure, own_schema
from connection_governor.server.mysql.watch import MySQLWatch
from tests.support.database import SESSIONS_OF, opener_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.mysql_family import MySQLFamilyServer

WORKER, MONITOR = Login("op_worker", "workerSecret1"), Login("op_monitor", "monitorSecret1")
ROOM = 10  # MariaDB takes no less


@pytest.fixture(scope="module")
def server(new_server: type[MySQLFamilyServer]) -> Iterator[MySQLFamilyServer]:
    """Yield a server with few connections, and the rights that the seed gives."""
    with new_server(max_connections=ROOM) as server:
        server.create_user(WORKER.username, WORKER.password, grants=["USAGE ON *.*"])
        rights = [
            "PROCESS ON *.*",
            "SELECT ON performance_schema.*",
        ]  # as on RDS, where CONNECTION ADMIN is not granted
        server.create_user(MONITOR.username, MONITOR.password, grants=rights)
        with contextlib.closing(server.root()) as connection, connection.cursor() as cursor:
            limit_procedure.make(cursor, worker=WORKER.username, monitor=MONITOR.username)
        yield server


@pytest.fixture
def target(server: MySQLFamilyServer) -> Target:
    """Return where it listens."""
    assert server.port is not None
    return Target(server.host, server.port, tls_ca=str(server.ca_path))


@pytest.fixture
def watch(target: Target) -> Iterator[MySQLWatch]:
    """Yield the janitor's view of it."""
    opener = opener_for(target, MONITOR)
    with contextlib.closing(MySQLWatch(lambda: opener, lambda: [WORKER.username])) as watch:
        yield watch


def test_a_janitor_that_is_in_stays_in_when_all_connections_are_used_up(watch: MySQLWatch, target: Target) -> None:
    """RDS keeps no connection back for its master user: without this no operator could see whose sessions are in it."""
    watch.observe()
    with contextlib.ExitStack() as sessions:
        for _ in range(ROOM - 1):
            sessions.callback(open_session(target, WORKER).close)
        with pytest.raises(err.OperationalError) as full:
            open_session(target, MONITOR)
        assert full.value.args[0] == 1040
        assert len(watch.observe().sessions) == ROOM - 1


def test_a_session_that_the_server_ended_is_opened_anew(watch: MySQLWatch, server: MySQLFamilyServer) -> None:
    """The environment was frozen for longer than the session may idle: the next round must not be blind for it."""
    watch.observe()
    with contextlib.closing(server.root()) as root, root.cursor() as cursor:
        cursor.execute(SESSIONS_OF, (MONITOR.username,))
        for (number,) in cursor.fetchall():
            cursor.execute("KILL CONNECTION %s", (number,))
    assert watch.observe().names_known


def test_the_limit_is_set_and_nothing_else_can_be(watch: MySQLWatch, target: Target, server: MySQLFamilyServer) -> None:
    """The right to change users would let the janitor's secret change the administrator's password."""
    watch.limit(4)
    with contextlib.closing(server.root()) as root, root.cursor() as cursor:
        cursor.execute("SELECT max_user_connections FROM mysql.user WHERE user = %s", (WORKER.username,))
        assert cursor.fetchone() == (4,)
    with contextlib.closing(open_session(target, MONITOR)) as session, session.cursor() as cursor:
        for statement in (
            f"ALTER USER '{WORKER.username}'@'%' WITH MAX_USER_CONNECTIONS 1",
            f"CALL {own_schema.SCHEMA}.`limit_{WORKER.username}`('1; DROP USER root')",
            f"DROP PROCEDURE {own_schema.SCHEMA}.`limit_{WORKER.username}`",
        ):
            with pytest.raises(err.MySQLError):
                cursor.execute(statement)


def test_removing_it_leaves_another_stacks(server: MySQLFamilyServer) -> None:
    """Two stacks on one server have one procedure each."""
    with contextlib.closing(server.root()) as root, root.cursor() as cursor:
        limit_procedure.make(cursor, worker="other_worker", monitor=MONITOR.username)
        limit_procedure.remove(cursor, worker="other_worker")
        limit_procedure.remove(cursor, worker="other_worker")
        cursor.execute(
            "SELECT routine_name FROM information_schema.routines WHERE routine_schema = 'connection_governor'"
        )
        assert cursor.fetchall() == ((f"limit_{WORKER.username}",),)
