"""What the tests on a real MariaDB share: a schema, a worker's user, and ways to open and to watch sessions."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.mysql.connect import FencedConnection, Target, open_session
from connection_governor.mysql.credentials import Credentials
from connection_governor.mysql.fence import Fence

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from harness.mariadb import PrivateMariaDB

WORKER = Credentials("fenced", "pässwörd €")
SHORT = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
"""Limits that a test can wait for."""

SLACK_S = 1.0
"""What a busy machine may take on top of a limit."""

Opener = Callable[..., FencedConnection]


@pytest.fixture(scope="session")
def shop(mariadb: PrivateMariaDB) -> PrivateMariaDB:
    """The server, with a schema `shop` for the worker."""
    mariadb.execute(
        "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4",
        "CREATE OR REPLACE TABLE shop.stock (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "INSERT INTO shop.stock VALUES (1, 10), (2, 20)",
        "CREATE DATABASE IF NOT EXISTS other",
    )
    mariadb.create_user(WORKER.username, WORKER.password, grants=["ALL ON shop.*", "ALL ON other.*"])
    return mariadb


@pytest.fixture
def target(shop: PrivateMariaDB) -> Target:
    """Where the schema is."""
    assert shop.port is not None
    return Target(shop.host, shop.port, "shop", tls_ca=str(shop.ca_path))


@pytest.fixture
def opened(target: Target) -> Iterator[Opener]:
    """Opens sessions as the worker; closes them after the test."""
    with contextlib.ExitStack() as sessions:

        def open_one(fence: Fence | None = None, **options: Any) -> FencedConnection:  # noqa: ANN401 - PyMySQL's own
            session = open_session(target, WORKER, fence, **options)
            sessions.callback(session.close)
            return session

        yield open_one


@pytest.fixture
def root(shop: PrivateMariaDB) -> Iterator[Connection[Cursor]]:
    """A connection of the administrator, on the schema."""
    with contextlib.closing(shop.root("shop")) as connection:
        yield connection


def ask(connection: Connection[Any], query: str, *values: object) -> Any:  # noqa: ANN401 - whatever was asked for
    """The only value of the first row, or None."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
    return row and row[0]


@contextlib.contextmanager
def stopped(mariadb: PrivateMariaDB) -> Iterator[None]:
    """The server neither answers nor hangs up meanwhile."""
    assert mariadb._server is not None
    os.kill(mariadb._server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mariadb._server.pid, signal.SIGCONT)


def listed(root: Connection[Cursor], connection_id: int) -> bool:
    """Whether the server still has this session."""
    return bool(ask(root, "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s", connection_id))


def seconds_until_gone(root: Connection[Cursor], connection_id: int, *, at_most: float) -> float:
    """Waits until the server has ended a session; fails where it takes longer than `at_most` seconds."""
    since = time.monotonic()
    while listed(root, connection_id):
        waited = time.monotonic() - since
        assert waited < at_most, f"session {connection_id} is still there after {waited:.1f} s"
        time.sleep(0.02)
    return time.monotonic() - since
