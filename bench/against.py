"""Compare this package with an earlier one: `python -m bench.against FOLDER`, which holds its `connection_governor`.

Two processes take turns on one DynamoDB Local, so that other load affects both alike. The functions called for each
cycle are counted, too: that number is the same on a busy machine. Only public names are used, so any version will do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measure import FULL, TINY, ratio
from bench.results import Row
from bench.tables import governed_table
from harness.paths import ROOT
from harness.stack.dynamodb_local import dynamodb_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.measure import Effort

NAME = "against"
MOST = 1.0
PAIRS = 5  # of processes: one may lie better in memory than another for as long as it lives
OURS = ROOT / "layers" / "governor"
WAYS = {"cycle": "acquire + release", "invocation": "lease() with a Lambda context"}
_WORKER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # metric lines are written in the measured time, and read by nothing
from connection_governor import Governor
governor = Governor.from_env()

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
    taken: dict[str, list[_Turn]] = {way: [] for way in WAYS}
    with dynamodb_local() as url:
        variables = governed_table(url).variables
        for _ in range(PAIRS if effort is FULL else 1):
            with _worker(OURS, variables) as ours, _worker(other, variables) as theirs:
                for way, turns in taken.items():
                    turns.extend(_turns(way, ours, theirs, effort))
    for way, turns in taken.items():
        yield _row(WAYS[way], turns)


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
    asked = parser.parse_args()
    for row in rows(asked.folder.resolve(), TINY if asked.quick else FULL):
        print(row.line(), flush=True)


if __name__ == "__main__":
    main()
