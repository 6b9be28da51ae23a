"""A fresh process until its first signed request is ready, and what the client adds to memory, beside boto3."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import pymysql

from bench.measure import FULL, Effort, Series, Spread, ratio
from bench.results import Row
from harness.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAME = "cold_start"
MOST_TIME = 0.25
PACKAGE = ROOT / "layers" / "governor" / "connection_governor"
MOST_MB = 6.0
_MEASURED = """
import os, sys, time
{before}
wall, cpu = time.perf_counter(), time.process_time()
def resident_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
start_kb = resident_kb()
{body}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print('{{"cpu_ms": %f, "wall_ms": %f, "added_kb": %d}}' % (cpu * 1e3, wall * 1e3, resident_kb() - start_kb))
"""
_ENDPOINT = """
from connection_governor.wiring import Environment
endpoint = Environment.current().endpoint("dynamodb")
endpoint._signed("/", {"content-type": "application/x-amz-json-1.0", "x-amz-target": "x"}, b"{}")
from connection_governor.aws import tls
tls.context(tls.AMAZON_ROOTS)
"""
_OURS = f"""
from connection_governor import Governor
governor = Governor.from_env()
{_ENDPOINT}
"""
_BOTO3 = """
import boto3
client = boto3.client("dynamodb")
"""
_DRIVER = "import pymysql, ssl"
_VARIABLES = {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "AKIDBENCHMARKONLY0",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_SESSION_TOKEN": "session-token/" * 30,
    "GOVERNOR_TABLE": "leases",
    "GOVERNOR_DATABASE": "orders",
    "AWS_LAMBDA_FUNCTION_NAME": "checkout",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Yield both over bare Python, and over Python with the driver loaded, as a worker has it."""
    rounds = 15 if effort is FULL else effort.rounds
    with TemporaryDirectory() as folder:
        layer, sources = Path(folder) / "layer", Path(folder) / "sources"
        copy_layer(PACKAGE, layer, sources)
        ways = {"ours": _Way(_OURS, layer), "boto3": _Way(_BOTO3, layer)}
        bare = _interleaved(ways, "", rounds)
        yield _row(
            "first signed request ready (with TLS context) / import boto3 + client, CPU", bare, "cpu_ms", MOST_TIME
        )
        yield _row(
            "first signed request ready (with TLS context) / import boto3 + client, wall", bare, "wall_ms", MOST_TIME
        )
        beside = _interleaved(ways, _DRIVER, rounds)
        yield _row("the same after PyMySQL is imported, CPU", beside, "cpu_ms", None)
        ours, theirs = (Spread.of([run["added_kb"] / 1024 for run in beside[name]]) for name in ("ours", "boto3"))
        yield Row(
            NAME,
            "memory added to bare Python + PyMySQL, MB (boto3's beside it)",
            f"at most {MOST_MB:g}",
            f"{ours} (boto3 {theirs})",
            ours.median <= MOST_MB,
            {"ours_mb": ours.median, "boto3_mb": theirs.median},
        )
        whole = f"{_OURS}\n{_DRIVER}"
        read_only = {"byte code": _Way(whole, layer), "sources alone": _Way(whole, sources, kept=False)}
        code = _interleaved(read_only, "", rounds)
        yield _row("client and PyMySQL, with the layer's byte code / from sources alone, CPU", code, "cpu_ms", None)


class _Way(NamedTuple):
    """A program, the layer that it runs on, and whether what it compiles is kept: not where Lambda mounts a layer."""

    body: str
    layer: Path
    kept: bool = True


def copy_layer(package: Path, layer: Path, sources: Path) -> None:
    """Copy a package and its driver with byte code, as the layer is built, and without."""
    for copied in (package, Path(pymysql.__file__).parent):
        shutil.copytree(copied, sources / copied.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(sources, layer)
    compileall.compile_dir(layer, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


def _row(figure: str, runs: Mapping[str, list[dict[str, float]]], field: str, most: float | None) -> Row:
    taken = ratio(*([run[field] for run in these] for these in runs.values()))
    details = {
        name: Series(tuple(run["cpu_ms"] for run in these), tuple(run["wall_ms"] for run in these)).report()
        for name, these in runs.items()
    }
    reached = None if most is None else taken.median <= most
    return Row(NAME, figure, f"at most {most}" if most else "", str(taken), reached, details)


def _interleaved(ways: Mapping[str, _Way], before: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            run = _run(_MEASURED.format(before=before, body=way.body), way)
            if number:  # the first round writes byte code and fills the page cache
                runs[name].append(run)
    return runs


def _run(program: str, way: _Way) -> dict[str, float]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(way.layer), **_VARIABLES}
    if not way.kept:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    taken: dict[str, float] = json.loads(done.stdout)
    return taken
