"""Compare this package with an earlier one: `python -m bench.against FOLDER`, which holds its `connection_governor`.

Two processes take turns on one DynamoDB Local, or on one MariaDB and answers made beforehand. So other load affects
both alike. The functions called for each cycle are counted, too: that number is the same on a busy machine. Cold starts
are compared in pairs of fresh processes, see `against_cold`. Only public names are used, so any version will do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import against_cold
from bench.canned import LOGIN, SECRET, canned_aws
from bench.measure import FULL, TINY, ratio
from bench.results import Row
from bench.tables import environment, governed_table
from harness.paths import ROOT
from harness.stack.dynamodb_local import dynamodb_local
from harness.stack.mariadb import PrivateMariaDB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.measure import Effort

NAME = "against"
MOST = 1.0
PAIRS = 5  # of processes: one may lie better in memory than another for as long as it lives
OURS = ROOT / "layers" / "governor"
LEASE_WAYS = {"cycle": "acquire + release", "invocation": "lease() with a Lambda context"}
SESSION_WAYS = {
    "kept": "connection() with a query, kept",
    "opened": "connection() with a query, opened and closed",
    "query": "SELECT 1 in an open connection",
    "rows": "2,000 rows in an open connection",
}
WAYS = LEASE_WAYS | SESSION_WAYS
SHARES = {"opened": 0.2, "rows": 0.05}  # of a turn's work: they take longer
_WORKER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # metric lines are written in the measured time, and read by nothing
from connection_governor import Governor
from connection_governor.fence import Fence
governor = Governor.from_env(fence=Fence(idle_seconds=300))  # longer than any turn of the others

class Context:
    def __init__(self):
        self.end = time.monotonic() + 20
    def get_remaining_time_in_millis(self):
        return int((self.end - time.monotonic()) * 1000)

def cycle():
    governor.release(governor.acquire())

def invocation():
    with governor.lease(context=Context()):
        pass

def body(keep_seconds):
    with governor.connection(context=Context(), keep_seconds=keep_seconds) as connection:
        ask(connection, "SELECT 1")

def ask(connection, statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()

def kept():
    body(60)

def opened():
    body(0)

held = []

def connection():
    if not held:
        held.append(governor.connect(lease_ms=3_000_000))
    return held[0]

def query():
    ask(connection(), "SELECT 1")

def rows():
    numbers = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 1000)"
    ask(connection(), numbers + " SELECT n, CONCAT('name', n) FROM s UNION ALL SELECT n, 1 FROM s")

def cpu_us(way, times):
    began = time.process_time()
    for _ in range(times):
        way()
    return (time.process_time() - began) * 1e6 / times

def calls(way, times):
    counted = [0]
    def count(frame, event, argument):
        counted[0] += event in ("call", "c_call")
    sys.setprofile(count)
    for _ in range(times):
        way()
    sys.setprofile(None)
    return counted[0] / times

for line in sys.stdin:
    measure, way, times = line.split()
    answers.write(json.dumps(globals()[measure](globals()[way], int(times))) + chr(10))
"""


class _Worker:
    """One process with one version of the package."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, what: str, way: str, times: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what} {way} {times}\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))


def rows(other: Path, effort: Effort) -> Iterator[Row]:
    """Yield the CPU of this package as a share of the other's, for each way to use a lease."""
    with dynamodb_local() as url:
        yield from _compared(LEASE_WAYS, governed_table(url).variables, other, effort)
    with _database() as variables:
        yield from _compared(SESSION_WAYS, variables, other, effort)


@contextmanager
def _database() -> Iterator[Mapping[str, str]]:
    """Yield the variables of a worker with a MariaDB of its own, over TLS."""
    with ExitStack() as end:
        url, server = end.enter_context(canned_aws()), end.enter_context(PrivateMariaDB())
        server.create_user(*LOGIN)
        database = {"DB_HOST": server.host, "DB_PORT": str(server.port), "DB_TLS_CA": str(server.ca_path)}
        yield environment(url, "leases", **database, **SECRET).variables


def _compared(ways: Mapping[str, str], variables: Mapping[str, str], other: Path, effort: Effort) -> Iterator[Row]:
    taken: dict[str, list[_Turn]] = {way: [] for way in ways}
    for _ in range(PAIRS if effort is FULL else 1):
        with _worker(OURS, variables) as ours, _worker(other, variables) as theirs:
            for way, turns in taken.items():
                turns.extend(_turns(way, ours, theirs, effort.scaled(SHARES.get(way, 1.0))))
    for way, turns in taken.items():
        yield _row(ways[way], turns)


class _Turn(NamedTuple):
    """One turn of each version: microseconds of CPU, and calls, for each cycle."""

    ours_us: float
    theirs_us: float
    our_calls: float
    their_calls: float


def _turns(way: str, ours: _Worker, theirs: _Worker, effort: Effort) -> list[_Turn]:
    for worker in (ours, theirs):
        worker.measure("cpu_us", way, effort.warm)
    calls = [worker.measure("calls", way, effort.each) for worker in (ours, theirs)]
    turns = []
    for number in range(effort.rounds):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        took = {worker: worker.measure("cpu_us", way, effort.each) for worker in order}
        turns.append(_Turn(took[ours], took[theirs], *calls))
    return turns


def _row(figure: str, turns: Sequence[_Turn]) -> Row:
    compared = ratio([turn.ours_us for turn in turns], [turn.theirs_us for turn in turns])
    calls = [statistics.median(made) for made in zip(*[turn[2:] for turn in turns], strict=True)]
    value = f"{compared}, calls {calls[0]:.0f} / {calls[1]:.0f}"
    return Row(NAME, f"{figure}: CPU / the other version's", f"at most {MOST}", value, compared.median <= MOST)


@contextmanager
def _worker(package: Path, variables: Mapping[str, str]) -> Iterator[_Worker]:
    environment: dict[str, Any] = {"PATH": os.environ["PATH"], **variables, "PYTHONPATH": str(package)}
    command = [sys.executable, "-P", "-c", _WORKER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield _Worker(process)
        assert process.stdin is not None
        process.stdin.close()  # it then ends


def main() -> None:
    """Print the rows of a comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("folder", type=Path, help="the other version's folder, such as EARLIER/layers/governor")
    parser.add_argument("--quick", action="store_true", help="run each once, small")
    parser.add_argument("--cold", action="store_true", help="compare only cold starts")
    asked = parser.parse_args()
    effort, folder = TINY if asked.quick else FULL, asked.folder.resolve()
    for row in against_cold.rows(folder, effort) if asked.cold else rows(folder, effort):
        print(row.line(), flush=True)


if __name__ == "__main__":
    main()
