"""A database that is paused: it takes connections and is silent until it has resumed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.processes import free_port
from tests.support.database import KEEP_SECONDS, SLACK_S, WORKER, ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation
from tests.support.moving_address import MovingAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.client.governor import Governor
    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

FIRST_S = 1.0  # of an attempt, in place of 3 s


@pytest.fixture
def database(shop: MySQLFamilyServer) -> Iterator[MovingAddress]:
    """Give an address that can be silent for a while."""
    assert shop.port is not None
    with MovingAddress(shop.port) as database:
        yield database


@pytest.fixture
def store() -> FaultyStore:
    """Return leases with a budget of four."""
    store = FaultyStore(MemoryStore())
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 4)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target, database: MovingAddress) -> Iterator[Governor]:
    """Return a governor of that database."""
    governor = governor_on(store, replace(target, port=database.port, connect_seconds=FIRST_S))
    yield governor
    governor.close()


@pytest.mark.parametrize("keep_seconds", [0, KEEP_SECONDS])
def test_a_database_that_resumes_is_waited_for(
    governor: Governor, database: MovingAddress, store: FaultyStore, keep_seconds: int
) -> None:
    """The first invocation after a pause fails, although its deadline is far away."""
    database.sleep(4.5)
    since = time.monotonic()
    with governor.connection(context=Invocation(20.0), keep_seconds=keep_seconds) as connection:
        took_s = time.monotonic() - since
        assert ask(connection, "SELECT @@wait_timeout") == connection.fence.idle_seconds
        assert len(lease_ids(store)) == 1
    assert 4.4 < took_s < 4.5 + SLACK_S
    assert database.taken == 3  # after 1 s, and after 2 s more


def test_a_coroutine_waits_for_it_too(governor: Governor, database: MovingAddress) -> None:
    """Only workers without asyncio get through to a database that was paused."""

    async def used() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation(20.0)) as connection:
            await connection.ping()

    database.sleep(2.5)
    asyncio.run(used())
    assert database.taken == 2


def test_a_coroutines_wait_ends_before_the_invocation(
    governor: Governor, database: MovingAddress, store: FaultyStore
) -> None:
    """Lambda kills the invocation, and the lease is not released."""

    async def used() -> None:
        async with AsyncGovernor(governor).connection(context=invocation):
            pass

    database.sleep(30)
    invocation = Invocation(2.5)
    with pytest.raises(err.OperationalError):
        asyncio.run(used())
    assert -0.6 < invocation.overrun_s() < 0
    assert lease_ids(store) == set()


def test_the_wait_ends_before_the_invocation(governor: Governor, database: MovingAddress, store: FaultyStore) -> None:
    """Lambda kills the invocation, and nobody hears why; its lease is not released."""
    database.sleep(30)
    invocation = Invocation(2.5)
    with pytest.raises(err.OperationalError), governor.connection(context=invocation):
        pass
    assert -0.5 < invocation.overrun_s() < 0
    assert lease_ids(store) == set()


def test_without_a_context_one_attempt_is_made(governor: Governor, database: MovingAddress) -> None:
    """A script, or the janitor, hangs for as long as a database sleeps."""
    database.sleep(30)
    since = time.monotonic()
    with pytest.raises(err.OperationalError), governor.connection():
        pass
    assert time.monotonic() - since < FIRST_S + SLACK_S


def test_a_refusal_is_not_waited_for(store: FaultyStore, target: Target) -> None:
    """A wrong port or a server that is down costs each invocation all of its time, and a lease."""
    governor = governor_on(store, replace(target, port=free_port()))
    since = time.monotonic()
    with pytest.raises(err.OperationalError), governor.connection(context=Invocation(20.0)):
        pass
    assert time.monotonic() - since < SLACK_S
    assert lease_ids(store) == set()


def test_an_idle_database_sees_no_session(governor: Governor, root: Connection[Cursor]) -> None:
    """A frozen environment that keeps a connection also keeps the database from pausing.

    Nothing runs in a frozen environment, so the server itself ends the session, after `wait_timeout`.
    """
    with governor.connection(context=Invocation(5.0)) as connection:
        session = ask(connection, "SELECT CONNECTION_ID()")
    sessions = "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s AND processlist_id = %s"
    assert ask(root, sessions, WORKER.username, session) == 1
    time.sleep(KEEP_SECONDS + SLACK_S)
    assert ask(root, sessions, WORKER.username, session) == 0
