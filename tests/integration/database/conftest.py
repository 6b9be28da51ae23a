"""What tests on a real MySQL or MariaDB share: a schema, a worker's user, ways to open and to watch sessions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection, open_session
from tests.support.database import WORKER, Opener, sequences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.fence import Fence
    from harness.stack.mysql_family import MySQLFamilyServer


@pytest.fixture(scope="session")
def shop(database_server: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return the server, with a schema `shop` for the worker."""
    database_server.execute(
        "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4",
        "DROP TABLE IF EXISTS shop.stock",
        "CREATE TABLE shop.stock (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "INSERT INTO shop.stock VALUES (1, 10), (2, 20)",
        "CREATE DATABASE IF NOT EXISTS other",
    )
    if not database_server.is_mariadb:
        database_server.execute(*sequences("shop"))
    database_server.create_user(WORKER.username, WORKER.password, grants=["ALL ON shop.*", "ALL ON other.*"])
    return database_server


@pytest.fixture
def target(shop: MySQLFamilyServer) -> Target:
    """Return where the schema is."""
    assert shop.port is not None
    return Target(shop.host, shop.port, "shop", tls_ca=str(shop.ca_path))


@pytest.fixture
def opened(target: Target) -> Iterator[Opener]:
    """Open sessions as the worker; close them after the test."""
    with contextlib.ExitStack() as sessions:

        def open_one(fence: Fence | None = None, **options: Any) -> FencedConnection:  # noqa: ANN401 - PyMySQL's own
            session = open_session(target, WORKER, fence, **options)
            sessions.callback(session.close)
            return session

        yield open_one


@pytest.fixture
def root(shop: MySQLFamilyServer) -> Iterator[Connection[Cursor]]:
    """Yield a connection of the administrator, on the schema."""
    with contextlib.closing(shop.root("shop")) as connection:
        yield connection
