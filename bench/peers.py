"""Acquire + release beside libraries and samples that do something similar on DynamoDB, in one run."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from bench.measure import FULL, Series, Spread, ratio
from bench.results import Row
from harness.paths import BUILD, ROOT
from harness.stack.dynamodb_local import dynamodb_local
from harness.stack.tools import uv

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.measure import Effort

NAME = "peers"
TIMES_FASTER = 3.0
PINS = ROOT / "bench" / "peers.txt"
ENVIRONMENT = BUILD / "bench" / "peers"
OURS = "connection-governor"
LIMIT = "ready-made bytes"  # our two requests with no client at all: what the network and DynamoDB Local take
GIVES_NOTHING_BACK = "zae-limiter, taking only"  # a rate limiter's use: there is no release to compare with


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Yield the wall time of each peer as a multiple of ours."""
    taken = measured(effort)
    ours = taken[OURS]
    details = {name: series.report() for name, series in taken.items()}
    peers = {name: series for name, series in taken.items() if name not in (OURS, LIMIT)}
    multiples = {name: ratio(series.wall_ms, ours.wall_ms) for name, series in peers.items()}
    best = min((name for name in multiples if name != GIVES_NOTHING_BACK), key=lambda name: multiples[name].median)
    least = multiples[best].median
    target = f"at least {TIMES_FASTER:g}"
    yield Row(
        NAME, f"the best peer's wall time / ours ({best})", target, str(multiples[best]), least >= TIMES_FASTER, details
    )
    limit = ratio(taken[best].wall_ms, taken[LIMIT].wall_ms)
    yield Row(
        NAME, f"the same peer's wall time / our two requests as {LIMIT}: nobody's client reaches more", "", str(limit)
    )
    for name, times in sorted(multiples.items(), key=lambda entry: entry[1].median):
        cpu = ratio(taken[name].cpu_ms, ours.cpu_ms)
        yield Row(NAME, f"{name}: wall and CPU / ours", "", f"{times}; CPU {cpu}")
    yield Row(NAME, "ours, wall ms", "", str(Spread.of(ours.wall_ms)))


def measured(effort: Effort) -> dict[str, Series]:
    """Run all of them in the peers' own environment."""
    python = _environment()
    with dynamodb_local() as url:
        command = [str(python), "-m", "bench.peer_cycles", url, "full" if effort is FULL else "tiny"]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "governor")])
        variables = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": paths}
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {name: Series(tuple(each["cpu_ms"]), tuple(each["wall_ms"])) for name, each in found.items()}


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "installed-from"
    if not stamp.exists() or stamp.read_text() != PINS.read_text():
        subprocess.run([uv(), "venv", "--quiet", "--clear", str(ENVIRONMENT)], check=True)
        subprocess.run([uv(), "pip", "install", "--quiet", "--python", str(python), "-r", str(PINS)], check=True)
        stamp.write_text(PINS.read_text())
    return python
