"""The crash drill: kills workers' processes while they hold a connection, with a signal that runs no clean-up code."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.demo.observer import WORKER_USER, now_ms

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

# Holders as MySQL sees them: it knows each client's process id, and a session that is silent for a while has run its
# query and is held.
HOLDERS = """
    SELECT s.id, a.attr_value, s.time_ms
    FROM information_schema.processlist s JOIN performance_schema.session_connect_attrs a ON a.processlist_id = s.id
    WHERE s.user = %s AND s.command = 'Sleep' AND s.time_ms > %s AND a.attr_name = '_pid'
"""
SILENT_MS = 150
FREEZE_S = 0.05
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Crash:
    """What the drill did: when, and to which processes."""

    at_ms: int
    pids: tuple[int, ...]


def kill_holders(connection: Connection[Cursor], group: int, count: int, seed: int) -> Crash:
    """Kill up to `count` workers that hold a connection now.

    Args:
        connection: root's on the database.
        group: the process group that the workers belong to; no other process is touched.
        count: how many to kill.
        seed: what the choice starts from.
    """
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    killed: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(killed) < count and time.monotonic() < deadline:
        found = [pid for pid in _holders(connection).values() if pid not in killed and _is_in(pid, group)]
        chosen = draw.sample(sorted(found), min(count - len(killed), len(found)))
        killed += _kill_if_holding(connection, chosen)
    return Crash(now_ms(), tuple(killed))


def _kill_if_holding(connection: Connection[Cursor], chosen: list[int]) -> list[int]:
    """Freeze the chosen workers, look again, and kill those that still hold: no worker dies between two holds."""
    before = _holders(connection)
    for pid in chosen:
        _send(pid, signal.SIGSTOP)
    time.sleep(FREEZE_S)
    after = _holders(connection, least_silence_ms=SILENT_MS + int(FREEZE_S * 1000))
    holding = {pid for session, pid in before.items() if after.get(session) == pid}
    victims = [pid for pid in chosen if pid in holding]
    for pid in chosen:
        _send(pid, signal.SIGKILL if pid in victims else signal.SIGCONT)
    return victims


def _holders(connection: Connection[Cursor], *, least_silence_ms: int = SILENT_MS) -> dict[int, int]:
    """Return the client's process id of each session that is held."""
    with connection.cursor() as cursor:
        cursor.execute(HOLDERS, (WORKER_USER, least_silence_ms))
        return {int(session): int(pid) for session, pid, _ in cursor.fetchall()}


def _is_in(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
