"""Real sessions of a test database: a worker's user, a short fence, a governor of this process, and ways to watch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from connection_governor.client.governor import Governor
from connection_governor.client.lease_file import NO_LEASE_FILE
from connection_governor.client.ports import Dependencies
from connection_governor.core.engine import Engine
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.database.fence import Fence
from connection_governor.metrics import Reporter
from connection_governor.mysql import opener as mysql_opener
from connection_governor.mysql.connect import FencedConnection, is_denied
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.core.store import LeaseStore
    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer
    from tests.support.faulty_store import FaultyStore

WORKER = Login("fenced", "pässwörd €")
SHORT = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
"""Limits that a test can wait for."""

SLACK_S = 1.0
"""What a busy machine may take on top of a limit."""

KEEP_SECONDS = 2
SESSIONS_OF = "SELECT processlist_id FROM performance_schema.threads WHERE processlist_user = %s"
"""The sessions of a user, also those that still roll back: MySQL's process list leaves these out."""

SEQUENCES = (5, 10, 20, 100, 1_000, 3_000, 5_000, 9_000, 20_000, 100_000, 200_000)
"""How far the tests count."""

Opener = Callable[..., FencedConnection]


def ask(connection: Connection[Any], query: str, *values: object) -> Any:  # noqa: ANN401 - whatever was asked for
    """Return the only value of the first row, or None."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
    return row and row[0]


@contextlib.contextmanager
def stopped(server: MySQLFamilyServer) -> Iterator[None]:
    """Stop the server, every thread of it, for the body: it neither answers nor hangs up meanwhile."""
    assert server._server is not None
    os.kill(server._server.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, server._server.pid, os.WSTOPPED)  # the signal alone stops its threads one by one, later
    try:
        yield
    finally:
        os.kill(server._server.pid, signal.SIGCONT)


def sequences(schema: str) -> list[str]:
    """Return the statements that make MariaDB's sequences as tables of MySQL: `seq_1_to_100` and so on, with `seq`."""
    numbers = "WITH RECURSIVE n (seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n WHERE seq < {0})"
    make = f"CREATE TABLE IF NOT EXISTS seq_1_to_{{0}} (seq INT PRIMARY KEY) {numbers} SELECT seq FROM n"
    return [f"USE {schema}", "SET cte_max_recursion_depth = 1000000", *(make.format(most) for most in SEQUENCES)]


def listed(root: Connection[Cursor], connection_id: int) -> bool:
    """Return whether the server still has this session."""
    return bool(ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_id = %s", connection_id))


def seconds_until_gone(root: Connection[Cursor], connection_id: int, *, at_most: float) -> float:
    """Wait until the server has ended a session; fail if it takes longer than `at_most` seconds."""
    since = time.monotonic()
    while listed(root, connection_id):
        waited = time.monotonic() - since
        assert waited < at_most, f"session {connection_id} is still there after {waited:.1f} s"
        time.sleep(0.02)
    return time.monotonic() - since


def ends_by_its_limit(root: Connection[Cursor], connection_id: int, server: MySQLFamilyServer) -> None:
    """Wait until a session at work on anything but a top-level SELECT has ended.

    MariaDB's limit ends it. MySQL's limits cover none of these: the session is still there, and is killed. The seed's
    event ends it on a seeded MySQL; this server was not seeded.
    """
    if not server.is_mariadb:
        time.sleep(SHORT.margin_ms / 1_000)
        assert listed(root, connection_id), "MySQL ended the statement by itself: the documents may promise more"
        root.query(f"KILL {connection_id}")
    seconds_until_gone(root, connection_id, at_most=SHORT.margin_ms / 1_000 + SLACK_S)


def opener_for(target: Target, credentials: Login) -> mysql_opener.Opener:
    """Open real sessions of a user."""
    secret = json.dumps({"username": credentials.username, "password": credentials.password})
    secrets = DatabaseCredentials(lambda *_, **__: secret, is_denied)
    return mysql_opener.Opener(target, partial(secrets.attempts, "arn"), SYSTEM_CLOCK)


def governor_on(store: LeaseStore, target: Target, **options: Any) -> Governor:  # noqa: ANN401 - the governor's own
    """Return a governor in this process, on these leases and this server."""
    quiet = Reporter(write=lambda _line: None)
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    service = Service(Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY), lambda: operations, quiet, SYSTEM_CLOCK)
    opener = options.pop("opener", None) or opener_for(target, options.pop("credentials", WORKER))
    dependencies = Dependencies(
        SYSTEM_CLOCK,
        SYSTEM_ENTROPY,
        quiet,
        make_opener=lambda: opener,
        operations=lambda: operations,
        lease_file=options.pop("lease_file", NO_LEASE_FILE),
    )
    defaults: dict[str, Any] = {"holder": "shop/test", "database": "orders", "fence": SHORT}
    return Governor(service, dependencies, **(defaults | {"keep_seconds": KEEP_SECONDS} | options))


def lease_ids(store: FaultyStore) -> set[str]:
    """Return the stored leases."""
    return {lease for shard in store.inner._shards.values() for lease in shard.leases}  # type: ignore[attr-defined]
