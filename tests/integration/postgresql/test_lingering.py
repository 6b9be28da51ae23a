"""A vanished holder's sessions on a real PostgreSQL: when the server itself ends them, and which no limit ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.database.fence import Fence
from connection_governor.postgresql.observe import kill, observe
from harness.paths import ROOT
from tests.support.postgresql import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from connection_governor.database.target import Target
    from harness.stack.postgresql import PrivatePostgreSQL

FENCE = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
SLACK_S = 1.5
IDLE_S = 1.0
BUSY_S = (
    0.5 + 1.0
)  # the statement's time; then its session is idle, or its answer waits for a client that reads nothing
ENDED_AFTER_S = {
    "idle": IDLE_S,
    "transaction": IDLE_S,
    "sleep": BUSY_S,
    "busy": BUSY_S,
    "lock": BUSY_S,
    "delete": BUSY_S,
    "procedure": BUSY_S,
    "unread": BUSY_S,
    "copy_out": BUSY_S,
}
NOT_ENDED = ("copy_in", "pipeline")
HOLDER = """
import sys, time
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from tests.support.postgresql import opener_of

host, port, authority, statement_seconds, *kinds = sys.argv[1:]
opener = opener_of(Target(host, int(port), "shop", tls_ca=authority))
fence = Fence(idle_seconds=1, statement_seconds=float(statement_seconds), write_seconds=1)
sessions = {
    kind: opener.open(fence, f"governor:{kind:_<12}:orders#0", None, autocommit=True) for kind in kinds
}
WORK = {
    "idle": "",
    "transaction": "BEGIN; UPDATE stock SET pieces = pieces WHERE id = 2",
    "sleep": "SELECT pg_sleep(100)",
    "busy": "SELECT count(*) FROM generate_series(1, 10000000000)",
    "lock": "UPDATE stock SET pieces = pieces WHERE id = 1",
    "delete": "DELETE FROM stock WHERE pg_sleep(100) IS NULL",
    "procedure": "DO $$ BEGIN PERFORM pg_sleep(100); END $$",
    "unread": "SELECT repeat('x', 1000), generate_series(1, 10000000)",
    "copy_out": "COPY (SELECT repeat('x', 1000), generate_series(1, 10000000)) TO STDOUT",
    "copy_in": "COPY stock FROM STDIN",
}
for kind, session in sessions.items():
    if kind == "pipeline":
        session.pgconn.enter_pipeline_mode()
        session.pgconn.send_query_params(b"UPDATE stock SET pieces = pieces WHERE id = 3", None)
    else:
        session.pgconn.send_query(WORK[kind].encode())
    session.pgconn.flush()
print("at work", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(
    target: Target, *kinds: str, statement_seconds: float = FENCE.statement_seconds
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds a session for each kind of work, all of them begun."""
    where = [target.host, str(target.port), str(target.tls_ca)]
    arguments = [sys.executable, "-c", HOLDER, *where, str(statement_seconds), *kinds]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "governor")])
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def locker(shop: PrivatePostgreSQL) -> Iterator[None]:
    """Hold the lock that the holder's sessions wait for."""
    with closing(shop.root("shop")) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE stock SET pieces = pieces WHERE id = 1")
        yield


def left(root: psycopg.Connection[Any]) -> set[str]:
    """Return the kinds of work whose sessions the server still has."""
    sessions = observe(root, ["worker"]).sessions
    return {session.lease_id.rstrip("_") for session in sessions if session.lease_id is not None}


@pytest.mark.usefixtures("locker")
def test_a_frozen_holders_sessions_are_ended_within_its_lease(target: Target, root: psycopg.Connection[Any]) -> None:
    """A lease would be granted again while the server still counts the frozen holder's session.

    The last two are what no limit of the server's ends: the janitor ends them, by their leases.
    """
    with holder(target, *ENDED_AFTER_S, *NOT_ENDED) as process:
        process.send_signal(signal.SIGSTOP)
        began, ended = time.monotonic(), dict[str, float]()
        while time.monotonic() - began < FENCE.margin_ms / 1_000 + SLACK_S and len(ended) < len(ENDED_AFTER_S):
            gone = ENDED_AFTER_S.keys() - left(root)
            ended |= {kind: time.monotonic() - began for kind in gone - ended.keys()}
            time.sleep(0.02)
        late = {kind: ended.get(kind) for kind, most in ENDED_AFTER_S.items() if ended.get(kind, 99) > most + SLACK_S}
        assert late == {}, f"seconds: {ended}"
        assert left(root) == set(NOT_ENDED)
        for session in observe(root, ["worker"]).sessions:
            assert kill(root, session)
        until(lambda: left(root) == set())


@pytest.mark.usefixtures("locker")
def test_a_killed_holders_sessions_are_ended_at_once(target: Target, root: psycopg.Connection[Any]) -> None:
    """The extension releases the lease of a runtime that crashed: a statement that runs on would be one too many."""
    with holder(target, *ENDED_AFTER_S, *NOT_ENDED, statement_seconds=30) as process:
        assert left(root) >= {"sleep", "busy", "lock", "copy_in", "pipeline"}
        process.kill()
        assert until(lambda: left(root) == set()) < SLACK_S
