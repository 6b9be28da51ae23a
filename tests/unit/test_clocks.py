"""The machine's clocks are read in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import connection_governor

PACKAGE = Path(connection_governor.__file__).parent
READINGS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "now", "utcnow", "today"}
MODULES = {"time", "datetime", "date"}


def readings(path: Path) -> list[str]:
    """Return where a module reads a clock of the machine's."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for name in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in READINGS]
    found = [f"{path.name}:{call.lineno}" for call in calls if getattr(call.value, "id", "") in MODULES]
    return found + [f"{path.name}: {name}" for name in imported & READINGS]


def test_only_the_system_module_reads_the_clocks() -> None:
    """Code that reads the clock by itself cannot be tested at a set time, nor be stopped by a deadline."""
    found = [where for path in sorted(PACKAGE.rglob("*.py")) for where in readings(path)]
    assert {where.partition(":")[0] for where in found} == {"system.py"}
    assert len(found) == 2, "the wall clock and the monotonic one"
