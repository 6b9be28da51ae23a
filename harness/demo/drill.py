"""The crash drill: kills workers' processes while they hold a connection, with a signal that runs no clean-up code."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.demo.observer import now_ms

if TYPE_CHECKING:
    from harness.demo.referee import Referee

SILENT_MS = 150  # a session that is silent for so long has run its query, and is held
FREEZE_S = 0.05
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Crash:
    """What the drill did: when, and to which processes."""

    at_ms: int
    pids: tuple[int, ...]


def kill_holders(referee: Referee, group: int, count: int, seed: int) -> Crash:
    """Kill up to `count` workers that hold a connection now.

    Args:
        referee: knows which sessions are held, and whose they are.
        group: the process group that the workers belong to; no other process is touched.
        count: how many to kill.
        seed: what the choice starts from.
    """
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    killed: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(killed) < count and time.monotonic() < deadline:
        found = [pid for pid in referee.holders(group, SILENT_MS).values() if pid not in killed and _is_in(pid, group)]
        chosen = draw.sample(sorted(found), min(count - len(killed), len(found)))
        killed += _kill_if_holding(referee, group, chosen)
    return Crash(now_ms(), tuple(killed))


def _kill_if_holding(referee: Referee, group: int, chosen: list[int]) -> list[int]:
    """Freeze the chosen workers, look again, and kill those that still hold: no worker dies between two holds."""
    before = referee.holders(group, SILENT_MS)
    for pid in chosen:
        _send(pid, signal.SIGSTOP)
    time.sleep(FREEZE_S)
    after = referee.holders(group, SILENT_MS + int(FREEZE_S * 1000))
    holding = {pid for session, pid in before.items() if after.get(session) == pid}
    victims = [pid for pid in chosen if pid in holding]
    for pid in chosen:
        _send(pid, signal.SIGKILL if pid in victims else signal.SIGCONT)
    return victims


def _is_in(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except ProcessLookupError:
        return False


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
