"""The drivers' tests on the lowest versions that `pyproject.toml` allows; all other runs are on the highest, uv.lock's.

Our drivers override methods of PyMySQL, aiomysql and psycopg: what holds on one version says little about another.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / "build/tools/uv/bin/uv"
FOLDER = ROOT / "build" / "driver-versions"
TESTS = {
    ("pymysql", "aiomysql"): (
        "database",
        ("opening", "plugins", "closing", "reset", "lingering", "interruptions", "drivers"),
    ),
    ("psycopg",): ("postgresql", ("opening", "governor", "closing", "reset", "dsql", "conflicts")),
}
DRIVERS = tuple(driver for together in TESTS for driver in together)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> dict[str, str]:
    """Return what the project asks for of each driver."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["asyncio"], *extras["postgresql"]]
    return {name: one.removeprefix(name) for one in asked for name in DRIVERS if one.startswith(name)}


def lowest(name: str) -> str:
    found = re.search(r">=([0-9.]+)", requirements()[name])
    assert found
    return found[1]


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("name", DRIVERS)
def test_each_driver_has_an_upper_bound_that_the_locked_version_is_next_to(name: str) -> None:
    """A new release of a driver changes what we override, and production is the first to run it."""
    found = re.search(r"<([0-9]+)\.([0-9]+)$", requirements()[name])
    assert found, "no upper bound"
    assert numbers(version(name))[:2] == (int(found[1]), int(found[2]) - 1)
    assert f"{name}{requirements()[name]}" in [
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["project"]["dependencies"],
    ]


@pytest.mark.timeout(600)
@pytest.mark.database
@pytest.mark.parametrize("drivers", TESTS, ids="-".join)
def test_the_drivers_tests_pass_on_the_lowest_versions(drivers: tuple[str, ...]) -> None:
    """With the oldest driver that we allow, a failed opening leaves its session signed in, for hours."""
    wanted = [f"{name}=={lowest(name)}" for name in drivers]
    target = FOLDER / "-".join(wanted)
    install = [str(UV), "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target", str(target)]
    subprocess.run([*install, *wanted], check=True)
    environment = os.environ | {"PYTHONPATH": str(target), "INTERRUPTION_STRIDE": "37", "SLOT_CYCLES": "10"}
    import_them = f"import {', '.join(drivers)}; print({', '.join(f'{name}.__file__' for name in drivers)})"
    seen = subprocess.run(
        [sys.executable, "-c", import_them], env=environment, capture_output=True, text=True, check=True
    )
    assert seen.stdout.count(str(target)) == len(drivers)
    folder, names = TESTS[drivers]
    files = [f"tests/integration/{folder}/test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
