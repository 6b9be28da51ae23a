"""What the tests on a real PostgreSQL share: a table, a worker's role, and ways to open and to watch sessions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.client.governor import Governor
from connection_governor.client.ports import Dependencies
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.postgresql import NAME, SHORT, WORKER, opener_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from connection_governor.postgresql.session import FencedConnection
    from harness.stack.postgresql import PrivatePostgreSQL


@pytest.fixture(scope="session")
def shop(postgresql: PrivatePostgreSQL) -> PrivatePostgreSQL:
    """Return the server, with a database `shop` for the worker."""
    postgresql.execute("CREATE DATABASE shop")
    postgresql.create_user(WORKER.username, WORKER.password, database="shop")
    postgresql.execute(
        "CREATE TABLE stock (id int PRIMARY KEY, pieces int)",
        "INSERT INTO stock VALUES (1, 10), (2, 20)",
        "CREATE ROLE clerk",
        "GRANT clerk TO worker",
        "GRANT ALL ON stock TO worker",
        "GRANT CREATE ON SCHEMA public TO worker",
        database="shop",
    )
    return postgresql


@pytest.fixture
def target(shop: PrivatePostgreSQL) -> Target:
    """Return where the database is."""
    assert shop.port is not None
    return Target(shop.host, shop.port, "shop", tls_ca=str(shop.ca_path))


@pytest.fixture
def root(shop: PrivatePostgreSQL) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of the administrator, on the database."""
    with contextlib.closing(shop.root("shop")) as connection:
        yield connection


@pytest.fixture
def listed(root: psycopg.Connection[Any]) -> Callable[[], int]:
    """Return a function that counts the worker's sessions, as the server lists them."""

    def count() -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'worker'"
        (number,) = root.execute(query).fetchone() or (0,)
        return int(number)

    return count


@pytest.fixture
def opened(target: Target) -> Iterator[Callable[..., FencedConnection]]:
    """Open sessions as the worker; close them after the test."""
    with contextlib.ExitStack() as sessions:

        def open_one(
            fence: Fence | None = None,
            *,
            usable_until_ms: int | None = None,
            tls: str = "verify",
            **options: Any,  # noqa: ANN401 - psycopg's own
        ) -> FencedConnection:
            where = Target(target.host, target.port, target.database, tls=tls, tls_ca=target.tls_ca)
            opener = opener_of(where)
            session = opener.open(fence or Fence(), NAME, usable_until_ms, **opener.session_options(options))
            sessions.callback(session.close)
            return session

        yield open_one


@pytest.fixture
def store() -> MemoryStore:
    """Return a table with a budget of one connection."""
    store = MemoryStore()
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 1)
    return store


@pytest.fixture
def governor(store: MemoryStore, target: Target) -> Governor:
    """Return a governor of that table and of the server."""
    quiet = Reporter(write=lambda _line: None)
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    service = Service(Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY), lambda: operations, quiet, SYSTEM_CLOCK)
    opener = opener_of(target)
    dependencies = Dependencies(
        SYSTEM_CLOCK, SYSTEM_ENTROPY, quiet, make_opener=lambda: opener, operations=lambda: operations
    )
    return Governor(service, dependencies, holder="shop/test", database="orders", fence=SHORT)
