"""Servers that refuse everyone for a while: a blocked address, `offline_mode`, `super_read_only`. On real servers."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from pymysql import err
from pymysql.constants import ER

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from connection_governor.mysql.refusals import OFFLINE_MODE
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.mariadb import PrivateMariaDB
from tests.support.database import SLACK_S, WORKER, ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.client.governor import Governor
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql import PrivateMySQL
    from harness.stack.mysql_family import MySQLFamilyServer

FAILED_HANDSHAKES = 3
NAMED = "127.0.0.2"
"""An address for which the server keeps a host cache; it keeps none for 127.0.0.1."""


@pytest.fixture
def target(mysql: PrivateMySQL) -> Target:
    """Return a schema of the worker on MySQL."""
    mysql.execute("CREATE DATABASE IF NOT EXISTS refusing", "CREATE TABLE IF NOT EXISTS refusing.stock (pieces INT)")
    mysql.create_user(WORKER.username, WORKER.password, grants=["ALL ON refusing.*"])
    return Target(mysql.host, mysql.port or 0, "refusing", tls_ca=str(mysql.ca_path))


@pytest.fixture
def store() -> FaultyStore:
    """Return leases with a budget of five connections."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 5)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target) -> Iterator[Governor]:
    """Return a governor that keeps sessions of that schema."""
    with closing(governor_on(store, target)) as governor:
        yield governor


@contextmanager
def switched_on(server: MySQLFamilyServer, *names: str) -> Iterator[None]:
    """Set these of the server's switches, and put them back in the other order."""
    try:
        for name in names:
            server.execute(f"SET GLOBAL {name} = ON")
        yield
    finally:
        for name in reversed(names):
            server.execute(f"SET GLOBAL {name} = OFF")


def body(governor: Governor) -> AbstractContextManager[FencedConnection]:
    """Begin one invocation's body."""
    return governor.connection(context=Invocation())


def work_on(session: FencedConnection) -> None:
    """Send statements until the server has noticed, for a second at most."""
    until = time.monotonic() + SLACK_S
    while time.monotonic() < until:
        session.query("SELECT 1")


def test_a_blocked_address_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """All functions behind one address are refused, and MySQL's own message names a program that is gone."""
    options = ["--skip-name-resolve=0", f"--max-connect-errors={FAILED_HANDSHAKES}"]
    create_connection = socket.create_connection

    def from_named(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        return create_connection(address, timeout, source_address=(NAMED, 0))

    monkeypatch.setattr(socket, "create_connection", from_named)
    with PrivateMariaDB(max_connections=10, options=options) as server:
        server.create_user(WORKER.username, WORKER.password)
        assert server.port is not None
        target = Target(server.host, server.port, tls_ca=str(server.ca_path))
        for _ in range(FAILED_HANDSHAKES):
            with closing(from_named((server.host, server.port))) as silent:
                silent.recv(200)
        wait_until_counted(server, FAILED_HANDSHAKES)
        with pytest.raises(err.OperationalError, match=r"TRUNCATE performance_schema.host_cache") as refused:
            open_session(target, WORKER)
        assert refused.value.args[0] == ER.HOST_IS_BLOCKED
        server.execute("TRUNCATE performance_schema.host_cache")  # what the message and the documents advise
        open_session(target, WORKER).close()


def wait_until_counted(server: MySQLFamilyServer, failures: int) -> None:
    """Wait until the server has noticed that so many clients have left: it does so a moment later."""
    until = time.monotonic() + SLACK_S
    with closing(server.root()) as root:
        while ask(root, "SELECT MAX(sum_connect_errors) FROM performance_schema.host_cache") != failures:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_a_server_that_goes_offline_ends_idle_sessions_and_their_leases_are_released(
    mysql: PrivateMySQL, governor: Governor, store: FaultyStore
) -> None:
    """The budget is gone when the server is back."""
    with body(governor) as connection:
        assert ask(connection, "SELECT 1") == 1
    assert len(lease_ids(store)) == 1  # kept
    with switched_on(mysql, "offline_mode"):
        with pytest.raises(err.OperationalError, match=r"administrators") as refused, body(governor):
            pass
        assert refused.value.args[0] == OFFLINE_MODE
        assert lease_ids(store) == set()
    with body(governor) as connection:
        assert ask(connection, "SELECT 1") == 1


def test_a_server_that_goes_offline_leaves_the_lease_of_a_transaction_to_expire(
    mysql: PrivateMySQL, target: Target
) -> None:
    """The rollback may take minutes after the stream has ended: meanwhile the slot is MySQL's."""
    session = open_session(target, WORKER)
    session.query("INSERT INTO stock VALUES (1)")
    with switched_on(mysql, "offline_mode"), pytest.raises(err.OperationalError):
        work_on(session)
    session.close()
    assert session.may_linger
    assert not session.let_go


def test_the_asynchronous_driver_explains_a_refusal_as_well(
    mysql: PrivateMySQL, governor: Governor, store: FaultyStore
) -> None:
    """As above, for asyncio."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()):
            pass

    with switched_on(mysql, "offline_mode"), pytest.raises(err.OperationalError, match=r"administrators"):
        asyncio.run(work())
    assert lease_ids(store) == set()


def test_a_commit_that_a_read_only_server_refuses_ends_the_kept_session(
    mysql: PrivateMySQL, governor: Governor, store: FaultyStore
) -> None:
    """The writer has moved: every later body of this environment would write to the reader."""
    with pytest.raises(err.OperationalError, match=r"next opening") as refused, body(governor) as connection:
        write_while_read_only(mysql, connection)
    assert refused.value.args[0] == ER.OPTION_PREVENTS_STATEMENT
    assert not connection.open
    assert lease_ids(store) == set()


def write_while_read_only(server: MySQLFamilyServer, connection: FencedConnection) -> None:
    """Write, and commit on a server that has become read-only meanwhile."""
    connection.query("INSERT INTO stock VALUES (1)")
    with switched_on(server, "read_only", "super_read_only"):
        connection.commit()
