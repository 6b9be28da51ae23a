"""A crew of real worker processes: starts them, follows their journal, kills them at a chosen step, sends them home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness.demo.recording import Hold
from harness.load_function.load.tally import TOO_MANY_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.stack.orders import Order

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0  # of set-up, on a machine that others use too


@dataclass(frozen=True, slots=True)
class Line:
    """One step of one worker; `details` is what it reported."""

    pid: int
    at_ms: int
    step: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """MySQL refused a worker: the error's number, and when the worker had gone to open."""

    number: int
    opening_ms: int


class Crew:
    """Workers that come and go; their journal is one stream, in the order in which they wrote."""

    def __init__(self, leader: subprocess.Popen[str]) -> None:
        self._leader = leader
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._pids: set[int] = set()
        self.lines: list[Line] = []
        self._reader.start()

    def start(self, order: Order) -> list[int]:
        """Start workers; return their process ids when all have begun."""
        before = set(self._pids)
        _pipe(self._leader.stdin).write(json.dumps(asdict(order)) + "\n")
        _pipe(self._leader.stdin).flush()
        self.wait(lambda: len(self._pids - before) == order.workers)
        return sorted(self._pids - before)

    def wait(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until the journal makes a condition true."""
        with self._changed:
            met = self._changed.wait_for(condition, timeout_s)
        assert met, f"not within {timeout_s:g} s; the last lines: {self.lines[-10:]}"

    def alive(self) -> list[int]:
        """Return the living workers."""
        return [pid for pid in sorted(self._pids) if _is_alive(pid)]

    def last(self, pid: int) -> Line:
        """Return a worker's latest line."""
        return next(line for line in reversed(self.lines) if line.pid == pid)

    def next_to(self, step: str) -> int:
        """Wait until a worker comes to this step; return its process id."""
        with self._changed:
            seen = len(self.lines)
            came = self._changed.wait_for(lambda: any(line.step == step for line in self.lines[seen:]), PATIENCE_S)
            assert came, f"no worker came to {step!r}: {self.lines[-10:]}"
            return next(line.pid for line in self.lines[seen:] if line.step == step)

    def holding(self) -> list[int]:
        """Return the workers that hold a connection now."""
        latest = {line.pid: line.step for line in self.lines}
        return [pid for pid, step in latest.items() if step == "holding"]

    def kill(self, *pids: int) -> int:
        """Send SIGKILL to all; return when it was sent to the last of them."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        at_ms = time.time_ns() // 1_000_000
        _wait_until_gone(pids)
        return at_ms

    def send_home(self) -> None:
        """Send SIGTERM to all: each finishes its invocation."""
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def wait_until_home(self) -> None:
        """Wait until no worker is left."""
        _wait_until_gone(self._pids)

    def forget(self) -> None:
        """Begin a new journal; no worker may be left."""
        with self._changed:
            assert not self.alive()
            self._pids.clear()
            self.lines.clear()

    def count(self, step: str) -> int:
        """Return how often the journal has a step."""
        return sum(line.step == step for line in self.lines)

    def errors(self) -> dict[str, int]:
        """Return the workers' errors, with how often each occurred."""
        counts: dict[str, int] = {}
        for line in self.lines:
            if line.step == "failed":
                name = f"{line.details['error']} {line.details['number'] or ''}".strip()
                counts[name] = counts.get(name, 0) + 1
        return counts

    def refused_by_mysql(self) -> list[Refused]:
        """Return each time that MySQL itself refused a session."""
        refused, opening_ms = [], {}
        for line in self.lines:
            if line.step == "opening":
                opening_ms[line.pid] = line.at_ms
            elif line.step == "failed" and line.details["number"] in TOO_MANY_CONNECTIONS:
                refused.append(Refused(line.details["number"], opening_ms[line.pid]))
        return refused

    def holds(self) -> list[Hold]:
        """Return each hold as its worker reported it; a killed worker holds until its lease expires."""
        holds, open_holds = [], {}
        for line in self.lines:
            if line.step == "holding":
                open_holds[line.pid] = line.details
            elif line.step == "closing":
                details = open_holds.pop(line.pid)
                holds.append(Hold(details["from_ms"], line.at_ms, details["expires_at_ms"], crashed=False))
        ends = [(details["from_ms"], details["expires_at_ms"]) for details in open_holds.values()]
        return holds + [Hold(from_ms, end_ms, end_ms, crashed=True) for from_ms, end_ms in ends]

    def _read(self) -> None:
        for text in _pipe(self._leader.stdout):
            details = json.loads(text)
            line = Line(details.pop("pid"), details.pop("at_ms"), details.pop("step"), details)
            with self._changed:
                self.lines.append(line)
                if line.step == "born":
                    self._pids.add(line.pid)
                self._changed.notify_all()


@contextmanager
def crew() -> Iterator[Crew]:
    """Yield a crew without workers; at the end none of its workers is left."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "governor")])
    leader = subprocess.Popen(
        [sys.executable, "-m", "tests.stack.drilled_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": paths},
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )
    people = Crew(leader)
    try:
        yield people
    finally:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        people._reader.join()
        for pipe in (leader.stdin, leader.stdout):
            _pipe(pipe).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _wait_until_gone(pids: set[int] | tuple[int, ...]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < ends_at, "a worker does not end"
        time.sleep(0.005)
