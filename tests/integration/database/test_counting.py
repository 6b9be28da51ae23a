"""What MySQL counts while sessions are kept: the server's own high-water mark, which no reset takes anything out of."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.errors import NoConnectionsLeft
from connection_governor.mysql.connect import open_session
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import ask, governor_on
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

BUDGET = 3
WORKERS = 8
BODIES = 15
ROOTS = 1  # the connection that reads the mark
CLOSING = 1  # a session that has ended is counted for a moment more, see docs/guarantees.md
USER = Login("counted", "pw")


@pytest.fixture(scope="module")
def server(new_server: type[MySQLFamilyServer]) -> Iterator[MySQLFamilyServer]:
    with new_server(max_connections=20) as server:
        server.execute("CREATE DATABASE shop")
        yield server


@pytest.fixture
def target(server: MySQLFamilyServer) -> Target:
    assert server.port is not None
    server.create_user(USER.username, USER.password, max_user_connections=BUDGET, grants=["ALL ON shop.*"])
    return Target(server.host, server.port, "shop", tls_ca=str(server.ca_path))


def test_a_reset_takes_a_session_out_of_mariadbs_limit_for_a_user(server: MySQLFamilyServer, target: Target) -> None:
    """Nothing of ours. Where this fails MariaDB counts kept sessions, and the documents may promise more."""
    if not server.is_mariadb:
        pytest.skip("MySQL counts a session that was reset")
    with contextlib.ExitStack() as kept:
        for _ in range(2 * BUDGET):
            session = open_session(target, USER)
            kept.callback(session.close)
            session.reset()
        with server.root() as root:
            listed = ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = 'counted'")
    assert listed == 2 * BUDGET


def test_a_reset_leaves_a_session_in_mysqls_limit_for_a_user(server: MySQLFamilyServer, target: Target) -> None:
    """Nothing of ours. Where this fails MySQL's own limit no longer covers kept sessions, as the documents promise."""
    if server.is_mariadb:
        pytest.skip("MariaDB counts no session that was reset")
    with contextlib.ExitStack() as kept:
        for _ in range(BUDGET):
            session = open_session(target, USER)
            kept.callback(session.close)
            session.reset()
        with pytest.raises(pymysql.err.OperationalError) as refused:
            open_session(target, USER)
    assert refused.value.args[0] == 1226


def test_kept_sessions_stay_within_the_budget_by_the_servers_own_count(
    server: MySQLFamilyServer, target: Target
) -> None:
    """Environments that keep a session each use more than the budget, and no limit for the user shows it."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
    server.execute("FLUSH STATUS")
    served = [0] * WORKERS

    def work(number: int) -> None:
        governor = governor_on(store, target, credentials=USER)
        for _ in range(BODIES):
            with (
                contextlib.suppress(NoConnectionsLeft),
                governor.connection(context=Invocation(3), timeout=1.0) as connection,
            ):
                served[number] += ask(connection, "SELECT 1")
        governor.close()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(served) > BODIES
    assert BUDGET <= server.status("Max_used_connections") <= BUDGET + ROOTS + CLOSING
