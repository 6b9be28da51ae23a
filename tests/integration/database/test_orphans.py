"""What the extension may release of a worker that was killed: nothing while the server works on. On real servers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from connection_governor.client.lease_file import IDLE, WORKING
from connection_governor.database.credentials import Login
from connection_governor.extension import NotedProcess
from tests.support.database import SLACK_S, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

USER = Login("orphan", "pw")
WORKS_ON_S = 3.0


@pytest.fixture
def server(database_server: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return a server with a procedure that answers at once, and works on."""
    database_server.execute(
        "DROP DATABASE IF EXISTS orphaned",
        "CREATE DATABASE orphaned",
        "CREATE TABLE orphaned.stock (pieces INT)",
        "INSERT INTO orphaned.stock VALUES (1)",
        "CREATE PROCEDURE orphaned.answers_and_works() BEGIN SELECT 'answer'; "
        f"UPDATE orphaned.stock SET pieces = pieces + SLEEP({WORKS_ON_S}); END",
    )
    database_server.create_user(USER.username, USER.password, grants=["ALL ON orphaned.*"])
    return database_server


def wait_until_at_work(server: MySQLFamilyServer, number: int) -> None:
    """Wait until the session is at the statement of its procedure that goes on."""
    until = time.monotonic() + SLACK_S
    query = "SELECT processlist_info FROM performance_schema.threads WHERE processlist_id = %s"
    with closing(server.root()) as root:
        while not str(ask(root, query, number) or "").startswith("UPDATE"):
            assert time.monotonic() < until
            time.sleep(0.01)


@contextmanager
def killed_after(server: MySQLFamilyServer, folder: Path, statement: str) -> Iterator[tuple[NotedProcess, int]]:
    """Kill a worker that has sent this statement; yield its notes, and its session's number."""
    options = {
        "folder": str(folder),
        "target": {"host": server.host, "port": server.port, "database": "orphaned", "tls_ca": str(server.ca_path)},
        "credentials": (USER.username, USER.password),
        "statement": statement,
    }
    command = [sys.executable, "-m", "tests.integration.database.orphaned_worker", json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        number = int(worker.stdout.readline())
        (path,) = folder.iterdir()
        process = NotedProcess(str(path))
        if statement.startswith("CALL"):
            wait_until_at_work(server, number)
        else:
            worker.stdout.readline()
        worker.kill()
        worker.wait()
    until = time.monotonic() + SLACK_S
    while not process.is_gone():
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield process, number
    finally:
        process.close()


def test_a_lease_whose_procedure_works_on_is_not_the_extensions(server: MySQLFamilyServer, tmp_path: Path) -> None:
    """The kernel may show no connection any more, as after a reset: only the note knows of the work."""
    with (
        killed_after(server, tmp_path, "CALL answers_and_works()") as (process, number),
        closing(server.root()) as root,
    ):
        (note,) = process.notes()
        query = "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_id = %s"
        assert ask(root, query, number) == 1  # the server is at work
        assert note.session == WORKING
        root.query(f"KILL {number}")


def test_a_lease_whose_session_was_idle_is_the_extensions(server: MySQLFamilyServer, tmp_path: Path) -> None:
    """Each crash would cost its slot for the whole length of the lease."""
    with killed_after(server, tmp_path, "DO 1") as (process, _):
        (note,) = process.notes()
        assert note.session == IDLE
