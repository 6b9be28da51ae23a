"""Compare cold starts with an earlier version's: pairs of fresh processes, from the import to the first release.

AWS is a server with answers made beforehand. A connection ends at a closed port: the database's part is not measured.
As in a Lambda function, there is nothing but the layer. PyMySQL would also load `cryptography` where that is installed:
a third of the time, alike for both, and with `inspect` in it, which an earlier version loads by itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.canned import SECRET, canned_aws
from bench.cold_start import PACKAGE, copy_layer
from bench.measure import FULL, Series, ratio
from bench.results import Row
from bench.tables import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.measure import Effort

NAME = "against_cold"
MOST = 1.0
ROUNDS = 31
TRANSPORTS: Mapping[str, Mapping[str, str]] = {
    "direct": {"GOVERNOR_TRANSPORT": "direct"},
    "lambda": {"GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "governor"},
}
_MEASURED = """
import os, sys, time
answers = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # metric lines
wall, cpu = time.perf_counter(), time.process_time()
from connection_governor import Governor
governor = Governor.from_env()
{use}
took = (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3
os.write(answers, repr(list(took)).encode())
"""
USES = {
    "lease": "with governor.lease(): pass",
    "connection": """
try:
    with governor.connection(lease_ms=60_000): pass
except Exception as error:
    assert type(error).__name__ == "OperationalError", error
""",
}


def rows(other: Path, effort: Effort) -> Iterator[Row]:
    """Yield CPU and wall time of this package as a share of the other's, for each transport and use."""
    rounds = ROUNDS if effort is FULL else effort.rounds
    with TemporaryDirectory() as folder, canned_aws() as url, closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: a connect is refused
        layers = [Path(folder) / name for name in ("ours", "theirs")]
        for layer, package in zip(layers, (PACKAGE, other / PACKAGE.name), strict=True):
            copy_layer(package, layer, Path(f"{layer}-sources"))
        for transport, chosen in TRANSPORTS.items():
            for use, code in USES.items():
                database = {"DB_HOST": "127.0.0.1", "DB_PORT": str(unused.getsockname()[1]), **SECRET}
                variables = environment(url, "leases", **chosen, **(database if use == "connection" else {})).variables
                yield from _rows(f"{transport}, {use}", layers, _MEASURED.format(use=code), variables, rounds)


def _rows(figure: str, layers: list[Path], program: str, variables: Mapping[str, str], rounds: int) -> Iterator[Row]:
    taken: dict[Path, list[tuple[float, float]]] = {layer: [] for layer in layers}
    for number in range(rounds + 1):
        for layer in layers if number % 2 else layers[::-1]:
            run = _run(program, layer, variables)
            if number:  # the first round fills the page cache
                taken[layer].append(run)
    ours, theirs = (Series(*(tuple(column) for column in zip(*taken[layer], strict=True))) for layer in layers)
    for name, compared in (
        ("CPU", ratio(ours.cpu_ms, theirs.cpu_ms)),
        ("wall", ratio(ours.wall_ms, theirs.wall_ms)),
    ):
        reached = compared.median < MOST
        yield Row(NAME, f"cold start, {figure}: {name} / the other version's", f"below {MOST}", str(compared), reached)


def _run(program: str, layer: Path, variables: Mapping[str, str]) -> tuple[float, float]:
    settings = {"PATH": os.environ["PATH"], **variables, "PYTHONPATH": str(layer)}
    command = [sys.executable, "-P", "-S", "-c", program]  # without the packages that are installed here
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    cpu_ms, wall_ms = json.loads(done.stdout)
    return cpu_ms, wall_ms
