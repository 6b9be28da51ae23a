"""Each benchmark still runs, at a tiny size; `make bench`, which is run rarely, checks the figures."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as runner
from bench.measure import Effort, Spread, interleaved, ratio
from harness.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

IN_VIRTUAL_TIME = ("overload", "sharding", "opening_rate")
ON_EMULATORS = ("direct", "cold_start", "connections", "cost")  # `peers` and `lambda_transport` install and build more


@pytest.mark.parametrize("name", IN_VIRTUAL_TIME)
def test_the_simulations_run(name: str) -> None:
    """A change of the package would leave the tuning of the waits without its measure."""
    assert_reported("bench", "--quick", name)


@pytest.mark.dynamodb_local
@pytest.mark.database
@pytest.mark.parametrize("name", ON_EMULATORS)
def test_the_measurements_run(name: str) -> None:
    """`make bench` would fail for a reader who wants to check the claims."""
    assert_reported("bench", "--quick", name)


@pytest.mark.dynamodb_local
@pytest.mark.database
def test_two_versions_of_the_package_can_be_compared() -> None:
    """A slower acquire would be noticed by its users first."""
    reported = assert_reported("bench.against", str(ROOT / "layers" / "governor"), "--quick")
    for line in reported:
        ours, theirs = line.split(" calls ")[1].split(" | ")[0].split(" / ")
        assert int(ours) > 0
        assert int(theirs) > 0


def test_cold_starts_of_two_versions_can_be_compared() -> None:
    """A heavier import would be noticed by every cold worker first."""
    reported = assert_reported("bench.against", str(ROOT / "layers" / "governor"), "--quick", "--cold")
    assert len(reported) == len(("direct", "lambda")) * len(("lease", "connection")) * len(("CPU", "wall"))


def test_every_benchmark_is_registered_and_says_its_name() -> None:
    """A benchmark that is not in the list is never run, one under another's name overwrites its results."""
    for name in runner.BENCHMARKS:
        module = import_module(f"bench.{name}")
        assert name == module.NAME
        assert callable(module.rows)


def test_every_way_has_its_turn_in_every_round() -> None:
    """One after the other, whatever else the machine does would be counted to one of them."""
    turns: list[str] = []
    ways = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    taken = interleaved(ways, Effort(rounds=3, each=2, warm=1))
    assert "".join(turns) == "ab" + 3 * "aabb"
    assert [len(series.wall_ms) for series in taken.values()] == [3, 3]


def test_ratios_are_taken_round_by_round() -> None:
    """The ratio of two medians would compare the quiet rounds of one with the busy rounds of the other."""
    assert ratio([1, 20, 3], [2, 10, 3]) == Spread(1, 0.5, 2)


def test_the_tables_are_written_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's text would be lost with the next run, or its old figures stay."""
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{runner.START}\nold\n{runner.END}\nafter\n")
    monkeypatch.setattr(runner, "README", readme)
    row = {"benchmark": "direct", "figure": "f", "target": "t", "value": "v", "reached": False, "details": {}}
    runner.write_tables({"direct": {"date": "2026-01-01", "machine": "m", "rows": [row]}})
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| f | v | t | **no** |" in text
    assert "old" not in text


def assert_reported(*arguments: str) -> list[str]:
    """Run it tiny, in a process of its own: what it opens is closed by its end. Return its rows."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "layers" / "governor")])}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows
    assert all(line.count(" | ") >= 3 for line in rows)  # figure, value, target, reached
    return rows
