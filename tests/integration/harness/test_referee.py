"""The demo's referee, on real servers: what it counts is what happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from harness.demo.referee import WORKER_USER, Referee, referee_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.database_server import DatabaseServer

LIMIT, SILENT_MS = 2, 150
PYMYSQL = "import pymysql; c = pymysql.connect(host=h, port=p, user=u, password='pw', ssl={'ca': ca})"
PSYCOPG = (
    "import psycopg; c = psycopg.connect(host=h, port=p, user=u, password='pw', sslrootcert=ca, sslmode='verify-full',"
    " dbname='postgres')"
)


@pytest.fixture(params=["mysql", "mariadb", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """Yield a server of each engine, with the workers' user."""
    server: DatabaseServer = request.getfixturevalue(request.param)
    server.create_user(WORKER_USER, "pw", max_user_connections=LIMIT)
    yield server
    server.execute("DROP ROLE governed_worker" if server.ENGINE == "postgresql" else "DROP USER governed_worker")


def _client(server: DatabaseServer) -> subprocess.Popen[str]:
    """Start a process that connects, and tells on its output how that went; it ends with its input."""
    connect = PSYCOPG if server.ENGINE == "postgresql" else PYMYSQL
    code = f"""
import sys
h, p, u, ca = {server.host!r}, {server.port}, {WORKER_USER!r}, {str(server.ca_path)!r}
try:
    {connect}
    with c.cursor() as cursor:
        cursor.execute("SELECT 1")
    print("connected", flush=True)
except Exception:
    print("refused", flush=True)
sys.stdin.read()
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def _outcome(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    return client.stdout.readline().strip()


def _holders(referee: Referee, group: int) -> list[int]:
    ends_at = time.monotonic() + 5
    while not (found := referee.holders(group, SILENT_MS)) and time.monotonic() < ends_at:
        time.sleep(0.05)
    return list(found.values())


def test_a_referee_counts_sessions_logins_refusals_and_knows_whose_they_are(server: DatabaseServer) -> None:
    """The demo's promises rest on these figures: a referee that sees nothing would find that all of them held."""
    clients: list[subprocess.Popen[str]] = []
    with closing(referee_of(server)) as referee:
        begun, refused = referee.begun(), referee.refused()
        try:
            for expected in ("connected", "connected", "refused"):
                clients.append(_client(server))
                assert _outcome(clients[-1]) == expected
            assert referee.sessions() == LIMIT
            assert (referee.begun() - begun, referee.refused() - refused) == (2, 1)
            first, *_ = clients
            assert first.pid in _holders(referee, os.getpgid(first.pid))
        finally:
            for client in clients:
                client.communicate("", timeout=10)
