"""A failover: two servers behind one address that moves, the first of them silent."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pymysql import err
from pymysql.constants import ER

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import WORKER, ask, governor_on, lease_ids, opener_for, stopped
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation
from tests.support.moving_address import MovingAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connection_governor.client.governor import Governor
    from harness.stack.mysql_family import MySQLFamilyServer

BUDGET = 8
KEPT = 6  # what keeping fills of it
KEEP_SECONDS = 20
CANT_EXECUTE_IN_READ_ONLY_TRANSACTION = 1792
LEASE_S = KEEP_SECONDS + 2  # for longer than that a kept lease lasts past its invocation, whatever the fence


@pytest.fixture(scope="module")
def first(shop: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return the server that the address leads to at the beginning."""
    return shop


@pytest.fixture(scope="module")
def second(new_server: type[MySQLFamilyServer]) -> Iterator[MySQLFamilyServer]:
    """Start the server that takes over."""
    with new_server(max_connections=20) as second:
        second.execute("CREATE DATABASE shop", "CREATE TABLE shop.stock (id INT PRIMARY KEY, pieces INT)")
        second.create_user(WORKER.username, WORKER.password, grants=["ALL ON shop.*"])
        yield second


@pytest.fixture
def address(first: MySQLFamilyServer) -> Iterator[MovingAddress]:
    """Give an address that leads to the first server."""
    assert first.port is not None
    with MovingAddress(first.port) as address:
        yield address


@pytest.fixture
def target(address: MovingAddress, first: MySQLFamilyServer, second: MySQLFamilyServer, tmp_path: Path) -> Target:
    """Return the schema behind the address; both servers' authorities are trusted."""
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(first.ca_path.read_text() + second.ca_path.read_text())
    return Target("127.0.0.1", port=address.port, database="shop", tls_ca=str(authorities))


@pytest.fixture
def store() -> FaultyStore:
    """Return empty leases with the budget."""
    store = FaultyStore(MemoryStore())
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
    return store


def environments(store: FaultyStore, target: Target, count: int = KEPT) -> list[Governor]:
    """Return so many environments, each with a kept connection."""
    made = [governor_on(store, target, keep_seconds=KEEP_SECONDS, holder=f"shop/{number}") for number in range(count)]
    for governor in made:
        use(governor)
    return made


def use(governor: Governor) -> int:
    """Serve one invocation; return the session that it had."""
    with governor.connection(context=Invocation(5.0), timeout=1.0) as connection:
        return int(ask(connection, "SELECT CONNECTION_ID()"))


def moved(address: MovingAddress, server: MySQLFamilyServer) -> None:
    """Lead the address to this server, and silence every connection made before."""
    assert server.port is not None
    address.mute()
    address.move(server.port)


@contextmanager
def read_only(server: MySQLFamilyServer) -> Iterator[None]:
    """Refuse writes meanwhile, as an old writer that has come back."""
    server.execute("SET GLOBAL read_only = 1")
    try:
        yield
    finally:
        server.execute("SET GLOBAL read_only = 0")


def test_after_a_failover_each_environment_releases_what_it_held_on_the_silent_server(
    store: FaultyStore, target: Target, address: MovingAddress, first: MySQLFamilyServer, second: MySQLFamilyServer
) -> None:
    """Three quarters of the budget are missing for the length of a kept lease, some 110 s."""
    assert second.port is not None
    kept = environments(store, target)
    old = lease_ids(store)
    assert len(old) == KEPT
    with stopped(first):
        address.move(second.port)
        since = time.monotonic()
        for governor in kept:
            use(governor)
        took_s = time.monotonic() - since
        now = lease_ids(store)
        for governor in kept:
            governor.close()
    assert took_s < LEASE_S
    assert not now & old
    assert lease_ids(store) == set()


def test_a_server_that_has_started_since_proves_the_same(
    store: FaultyStore, target: Target, address: MovingAddress, second: MySQLFamilyServer
) -> None:
    """A Multi-AZ instance, whose standby has the same storage and so the same `server_uuid`."""
    moved(address, second)
    governor = environments(store, target, 1)[0]
    old = lease_ids(store)
    address.mute()
    second.kill()
    time.sleep(2.1)  # it starts again some seconds later, by its own clock
    second.start()
    use(governor)
    assert not lease_ids(store) & old
    governor.close()


def test_the_same_server_proves_nothing(store: FaultyStore, target: Target, address: MovingAddress) -> None:
    """A path that fails, with the server still at work for the session: two sessions have one slot."""
    governor = environments(store, target, 1)[0]
    old = lease_ids(store)
    address.mute()
    use(governor)
    assert len(old & lease_ids(store)) == 1
    governor.close()


def test_a_server_that_only_reads_proves_nothing(
    store: FaultyStore, target: Target, address: MovingAddress, second: MySQLFamilyServer
) -> None:
    """An address that leads to several readers in turn, of which each may be at work for a session."""
    governor = environments(store, target, 1)[0]
    old = lease_ids(store)
    moved(address, second)
    with read_only(second):
        use(governor)
        assert len(old & lease_ids(store)) == 1
        governor.close()


def test_a_worker_that_needs_a_writer_opens_nothing_else(
    store: FaultyStore, target: Target, address: MovingAddress, second: MySQLFamilyServer
) -> None:
    """An address that still leads to the old writer, which reads only by now, and every write fails there."""
    governor = governor_on(store, replace(target, role="writer"))
    moved(address, second)
    with read_only(second):
        with pytest.raises(err.OperationalError) as refused:
            use(governor)
        assert refused.value.args[0] == ER.OPTION_PREVENTS_STATEMENT
        assert lease_ids(store) == set()
    assert use(governor) > 0
    governor.close()


def test_a_session_whose_server_has_become_read_only_is_not_kept(store: FaultyStore, target: Target) -> None:
    """A body that swallows the error of a write, and each body after it that meets the same error."""
    governor = environments(store, target, 1)[0]
    with governor.connection(context=Invocation(5.0)) as connection, connection.cursor() as cursor:
        cursor.execute("START TRANSACTION READ ONLY")
        with pytest.raises(err.MySQLError) as refused:
            cursor.execute("UPDATE stock SET pieces = 0")
        assert refused.value.args[0] == CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
        before = connection.thread_id()
    assert lease_ids(store) == set()
    assert use(governor) != before
    governor.close()


def test_a_body_that_is_refused_by_the_demoted_server_leaves_nothing_kept(
    store: FaultyStore, target: Target, first: MySQLFamilyServer
) -> None:
    """The same, as a demoted server says it."""
    governor = environments(store, target, 1)[0]
    with governor.connection(context=Invocation(5.0)) as connection, connection.cursor() as cursor, read_only(first):
        with pytest.raises(err.MySQLError) as refused:
            cursor.execute("UPDATE stock SET pieces = 0")
        assert refused.value.args[0] == ER.OPTION_PREVENTS_STATEMENT
    assert lease_ids(store) == set()
    governor.close()


def test_to_learn_the_server_costs_no_round_trip(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every opening waits for the network once more."""
    writes: list[int] = []
    write = FencedConnection._write_bytes

    def counted(session: FencedConnection, data: bytes) -> None:
        writes.append(len(data))
        write(session, data)

    monkeypatch.setattr(FencedConnection, "_write_bytes", counted)
    counts = {}
    for role in ("any", "writer"):
        writes.clear()
        with closing(opener_for(replace(target, role=role), WORKER).open(Fence(), "", None)) as session:
            counts[role] = len(writes)
            assert (session.server is not None) == (role == "writer")
            assert ask(session, "SELECT @@wait_timeout") == session.fence.idle_seconds
    assert counts["any"] == counts["writer"]


def test_a_server_that_does_not_know_who_it_is_can_be_used(
    store: FaultyStore, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every MariaDB before 10.6.16, which has no `server_uid`."""
    monkeypatch.setattr("connection_governor.mysql.session.server_query", lambda **_: "SELECT @@server_of_tomorrow")
    governor = environments(store, target, 1)[0]
    assert use(governor) == use(governor)
    governor.close()
