"""The direction of imports holds because `lint-imports` fails if it is broken: planted violations show it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.paths import ROOT

CORE = "the core knows no clock, network, randomness or environment"
LAYERS = "arrows point one way"
PLANTS = {
    "a clock in the rules": ("core/rules.py", "import datetime", CORE),
    "a network in the core": ("core/engine.py", "import urllib.request", CORE),
    "a store in the client": (
        "client/acquire.py",
        "from connection_governor.aws.dynamodb import DynamoDBStore",
        "the client stores nothing in DynamoDB by itself",
    ),
    "the server in the client": (
        "client/governor.py",
        "from connection_governor.server.service import Service",
        "the functions' side knows no client",
    ),
    "MySQL in the AWS client": (
        "aws/client.py",
        "from connection_governor.mysql.fence import SessionStart",
        "the kinds of databases and AWS know nothing of each other",
    ),
    "MySQL's numbers in the seed's order": (
        "server/seed.py",
        "from pymysql import err",
        "what the functions do is the same for each kind of database",
    ),
    "an arrow up": ("core/engine.py", "from connection_governor.metrics import Reporter", LAYERS),
    "a heavy library": ("client/governor.py", "import boto3", "what a worker imports is light"),
    "a room in no layer": ("attic.py", '"""In no layer."""', LAYERS),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the packages and of the contracts."""
    bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(
        ROOT / "layers" / "governor" / "connection_governor", tmp_path / "connection_governor", ignore=bytecode
    )
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=bytecode)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    """Check the contracts as `make lint` does; return the exit code, and the output as one line."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200", "NO_COLOR": "1"}
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stdout.split())


def test_the_packages_keep_their_contracts(checkout: Path) -> None:
    """A planted violation would show nothing where the contracts are broken anyway."""
    code, printed = lint(checkout)
    assert code == 0, printed
    assert " 0 broken" in printed


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_violation_fails_the_lint(checkout: Path, plant: str) -> None:
    """The drawn architecture is only a picture, and the next import ignores it."""
    module, line, contract = PLANTS[plant]
    path = checkout / "connection_governor" / module
    source = path.read_text() if path.exists() else ""
    path.write_text(f"{source}\n{line}\n")
    code, printed = lint(checkout)
    assert code == 1, printed
    broken = printed.partition("Broken contracts")[2] or printed
    assert contract in broken, printed
