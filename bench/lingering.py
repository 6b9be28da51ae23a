"""How long does MySQL work for a client that waits, freezes, or is gone? Each kind of statement, each way to leave.

python -m bench.lingering            MySQL with the event that the seed makes, MySQL without it, and MariaDB

The statements would take 20 s; their limit is 1 s, W is 1 s. They look at no socket by themselves. Times run from the
statement's start to its answer where the client waits, else until the server has freed the session's place.
"""

# ruff: noqa: S608, SLF001 - statements of constants; a client that does not wait for its answer

from __future__ import annotations

import contextlib
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pymysql
from pymysql.constants import COMMAND

from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import FencedConnection, open_session
from connection_governor.server.mysql import statement_limit
from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.stack.mysql_family import MySQLFamilyServer

WORKER = Login("lingerer", "Lingerer1")
FENCE = Fence(idle_seconds=1, statement_seconds=1.0, write_seconds=1, lock_seconds=1)
WATCHED_S = 8.0
AT_A_TIME = 10
SLOW = "SELECT SUM(SLEEP(0.01)) FROM lingering.numbers"  # 20 s; no SLEEP of it is long enough to look at its client
STATEMENTS = {
    "SELECT": "{slow}",
    "UPDATE": "UPDATE lingering.stock SET pieces = ({slow}) WHERE id = {id}",
    "DELETE": "DELETE FROM lingering.stock WHERE id = {id} AND ({slow}) = 7",
    "INSERT … SELECT": "INSERT INTO lingering.journal {slow}",
    "CREATE TABLE … AS SELECT": "CREATE TABLE lingering.made_{id} AS {slow}",
    "SET @v = (SELECT …)": "SET @v = ({slow})",
    "DO": "DO ({slow})",
    "CALL": "CALL lingering.work({id})",
    "a wait for a row": "UPDATE lingering.stock SET pieces = 1 WHERE id = 0",
    "nothing, in a transaction": "BEGIN",
}


def finishes(session: FencedConnection) -> None:
    """End the stream, as a process does that dies."""
    _socket_of(session).shutdown(socket.SHUT_WR)


def resets(session: FencedConnection) -> None:
    """Break the stream, as a process does that dies with unread bytes."""
    sock = _socket_of(session)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socket.socket(fileno=sock.detach()).close()


def _socket_of(session: FencedConnection) -> socket.socket:
    assert session._sock is not None
    return session._sock


WAYS: dict[str, Callable[[FencedConnection], None]] = {
    "frozen": lambda _session: None,
    "FIN": finishes,
    "RST": resets,
    "close()": lambda session: session.close(),
}


def seconds(server: MySQLFamilyServer, statement: str, leave: Callable[[FencedConnection], None] | None) -> float:
    """Return how long the statement was at work, `leave` being done at once; at most `WATCHED_S`."""
    assert server.port is not None
    target = Target(server.host, server.port, tls_ca=str(server.ca_path))
    session = open_session(target, WORKER, FENCE, program_name="governor:lingering1:orders#0")
    since = time.monotonic()
    session._execute_command(COMMAND.COM_QUERY, statement)
    if leave is None:
        session._sock.settimeout(WATCHED_S)  # type: ignore[union-attr]
        with contextlib.suppress(pymysql.err.MySQLError):
            session._read_packet()
    else:
        time.sleep(0.1)  # so that the server has begun
        leave(session)
        with contextlib.closing(server.root()) as root, root.cursor() as cursor:
            while time.monotonic() - since < WATCHED_S and _is_there(cursor, session.thread_id()):
                time.sleep(0.05)
    took_s = time.monotonic() - since
    session._force_close()
    return took_s


def _is_there(cursor: pymysql.cursors.Cursor, connection_id: int) -> bool:
    """Return whether the session still has its place; the list of processes is ahead of that."""
    cursor.execute("SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_id = %s", (connection_id,))
    return cursor.fetchone() != (0,)


def table(server: MySQLFamilyServer) -> list[str]:
    """Return the lines of one server's table: ten clients at a time, each on a row of its own."""
    ways: dict[str, Callable[[FencedConnection], None] | None] = {"waits": None, **WAYS}
    wanted = [(kind, way) for kind in STATEMENTS for way in ways]
    with ThreadPoolExecutor(AT_A_TIME) as clients:
        taken = clients.map(
            lambda one: seconds(server, STATEMENTS[one[1][0]].format(id=one[0] + 1, slow=SLOW), ways[one[1][1]]),
            enumerate(wanted),
        )
        took = dict(zip(wanted, taken, strict=True))
    shown = {one: f"{took_s:.1f}" if took_s < WATCHED_S else f"> {WATCHED_S:.0f}" for one, took_s in took.items()}
    lines = [f"| statement | {' | '.join(ways)} |", "| --- |" + " --- |" * len(ways)]
    return lines + [f"| {kind} | {' | '.join(shown[kind, way] for way in ways)} |" for kind in STATEMENTS]


def measure(server: MySQLFamilyServer, *, with_event: bool) -> None:
    """Print one server's table."""
    server.create_user(WORKER.username, WORKER.password, grants=["ALL ON lingering.*"])
    server.execute(
        "CREATE DATABASE lingering",
        "CREATE TABLE lingering.numbers (n INT)",
        "INSERT INTO lingering.numbers VALUES " + ", ".join(["(1)"] * 2_000),
        "CREATE TABLE lingering.stock (id INT PRIMARY KEY, pieces INT)",
        "INSERT INTO lingering.stock VALUES " + ", ".join(f"({row}, 0)" for row in range(100)),
        "CREATE TABLE lingering.journal (pieces INT)",
        "CREATE PROCEDURE lingering.work(IN row_id INT) MODIFIES SQL DATA "
        + STATEMENTS["UPDATE"].format(id="row_id", slow=SLOW),
    )
    with contextlib.closing(server.root()) as root, root.cursor() as cursor:
        if with_event:
            assert statement_limit.make(cursor, worker=WORKER.username, monitor=WORKER.username) is None
        cursor.execute("BEGIN")
        cursor.execute("UPDATE lingering.stock SET pieces = 1 WHERE id = 0")  # the row that is waited for
        event = ", with the event" if with_event else ""
        print(f"\n{server.LABEL} {server.version()}{event}\n", *table(server), sep="\n", flush=True)


def main() -> None:
    """Measure each server."""
    for server, with_event in ((PrivateMySQL, True), (PrivateMySQL, False), (PrivateMariaDB, False)):
        with server(max_connections=150) as running:
            measure(running, with_event=with_event)


if __name__ == "__main__":
    main()
