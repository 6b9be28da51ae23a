"""Processes full of threads that acquire from one table with the production code, and journal each hold.

Run as a program, so that a test can kill it: `python -m tests.conformance.crowd FOLDER THREADS MODE SECONDS LEASE_MS`,
configured by the environment as any worker is. It says "ready", waits for a line, works, and says "done". The journal
is one file for each process: `+ ID CONNECTIONS MONOTONIC_NS` once a lease was granted, `- ID - MONOTONIC_NS` just
before it is released. CLOCK_MONOTONIC is one clock for all processes of a machine.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from connection_governor import Governor, GovernorUnavailable, NoConnectionsLeft
from connection_governor.core.lease import Lease  # noqa: TC001 - a program, not a library
from harness.load_function.load.tally import most_at_once
from tests.support.worlds import environment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
DATABASE = "orders"
LONGEST_HOLD_S = 1.5  # long enough that 64 members fill all 20 places, even where a busy machine makes requests slow


@dataclass(frozen=True)
class Held:
    """One lease as its holder saw it: from the grant's answer until just before the release is sent."""

    lease_id: str
    connections: int
    from_ns: int
    until_ns: int | None


class Crowd:
    """Some processes on one table, started together; each is a worker's environment with threads."""

    def __init__(self, folder: Path, processes: list[subprocess.Popen[str]]) -> None:
        self._folder = folder
        self.processes = processes

    def go(self) -> None:
        """Let all begin at once."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def finish(self, timeout_s: float = 120) -> None:
        """Wait until all have done their work."""
        for process in self.processes:
            assert process.wait(timeout_s) == 0

    def journal(self) -> list[str]:
        """Return the lines of all journals."""
        return [line for journal in self._folder.iterdir() for line in journal.read_text("ascii").splitlines()]

    def held(self) -> list[Held]:
        """Return the holds; `until_ns` is None if the lease was never released."""
        leases: dict[str, Held] = {}
        for line in self.journal():
            sign, lease_id, count, at_ns = line.split(" ")
            if sign == "+":
                leases[lease_id] = Held(lease_id, int(count), int(at_ns), None)
            else:
                seen = leases[lease_id]
                leases[lease_id] = Held(lease_id, seen.connections, seen.from_ns, int(at_ns))
        return list(leases.values())


def peak_held(leases: list[Held], gone_ns: int | None = None) -> int:
    """Return the most connections held at one moment; a holder that never released held until `gone_ns`."""
    ends = [gone_ns if lease.until_ns is None else lease.until_ns for lease in leases]
    assert None not in ends, "a lease was never given back"
    return most_at_once((lease.from_ns, end, lease.connections) for lease, end in zip(leases, ends, strict=True) if end)


@contextmanager
def crowd(
    folder: Path,
    endpoint_url: str,
    table: str,
    *,
    processes: int = 8,
    threads: int = 8,
    program: str = "crowd",
    mode: str = "loop",
    seconds: float = 1.0,
    lease_ms: int = 30_000,
) -> Iterator[Crowd]:
    """Start the processes; whatever happens, none is left."""
    variables = {**os.environ, **environment_of(endpoint_url, table).variables, "GOVERNOR_DATABASE": DATABASE}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "governor")])
    folder.mkdir()
    arguments = [str(folder), str(threads), mode, str(seconds), str(lease_ms)]
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(processes):
            command = [sys.executable, "-m", f"tests.conformance.{program}", *arguments]
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=variables, cwd=ROOT, text=True))
        yield Crowd(folder, started)
    finally:
        for process in started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


class Member:
    """One thread of the crowd."""

    def __init__(self, journal: IO[bytes], lease_ms: int) -> None:
        self._governor = Governor.from_env()
        self._journal = journal
        self._lease_ms = lease_ms

    def once(self, _until: float) -> None:
        """Try once, and keep a granted lease."""
        with suppress(NoConnectionsLeft):
            self._take(0)

    def loop(self, until: float) -> None:
        """Acquire, hold for a moment, release; repeat."""
        while time.monotonic() < until:
            with suppress(NoConnectionsLeft, GovernorUnavailable):
                lease = self._take(0.5)
                time.sleep(random.random() * LONGEST_HOLD_S)
                self._write(f"- {lease.lease_id} - {time.monotonic_ns()}")
                self._governor.release(lease)

    def rush(self, until: float) -> None:
        """Acquire and release as fast as it is granted."""
        while time.monotonic() < until:
            with suppress(NoConnectionsLeft, GovernorUnavailable):
                lease = self._take(1.0)
                self._governor.release(lease)

    def _take(self, timeout: float) -> Lease:
        lease = self._governor.acquire(timeout=timeout, lease_ms=self._lease_ms)
        self._write(f"+ {lease.lease_id} {lease.connections} {time.monotonic_ns()}")
        return lease

    def _write(self, line: str) -> None:
        self._journal.write(line.encode() + b"\n")  # unbuffered: one write, which a kill cannot halve


def serve(make: Callable[[IO[bytes], int], object]) -> None:
    """Run one process of a crowd: `make` gets the journal and the leases' length; modes are methods of its result."""
    folder, threads, mode, seconds, lease_ms = sys.argv[1:]
    talk = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # metrics go to standard output: not wanted here
    with Path(folder, str(os.getpid())).open("ab", buffering=0) as journal:
        member = make(journal, int(lease_ms))
        talk.write("ready\n")
        talk.flush()
        sys.stdin.readline()
        until = time.monotonic() + float(seconds)
        crew = [threading.Thread(target=getattr(member, mode), args=(until,)) for _ in range(int(threads))]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()


if __name__ == "__main__":
    serve(Member)
