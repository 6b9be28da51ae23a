"""What a worker's first import loads: every module is milliseconds of each cold start, ten times that on 128 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = Path(__file__).parents[2] / "layers" / "governor"

NEVER = (
    "boto3",
    "botocore",
    "pydantic",
    "aws_lambda_powertools",
    "rich",
    "requests",
    "urllib3",
    "asyncio",
    "email",
    "http",
    "logging",
    "pathlib",
    "dataclasses",
    "inspect",
    "urllib",
    "pymysql",
    "ssl",
    "connection_governor.client.aio",
    "connection_governor.client.sqlalchemy",
    "connection_governor.cli",
    "connection_governor.server.janitor",
    "connection_governor.server.seed",
    "connection_governor.server.custom_resource",
    "connection_governor.server.mysql_watch",
    "connection_governor.core.memory",
    "connection_governor.mysql.observe",
)

IMPORTED = "from connection_governor import Governor"
MADE = """
import os
os.environ.update({variables})
from connection_governor import Governor
governor = Governor.from_env()
"""
DIRECT = {
    "GOVERNOR_TRANSPORT": "direct",
    "GOVERNOR_TABLE": "leases",
    "GOVERNOR_DATABASE": "orders",
    "AWS_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}
REMOTE = {**DIRECT, "GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "governor"}
PLAIN_HTTP = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


def loaded_by(program: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after the program, besides those it starts with."""
    ending = "\nimport json, sys; print(json.dumps(sorted(set(sys.modules) - before)))"
    code = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(LAYER)!r})\n{program}{ending}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stdout))


def of(loaded: set[str], *names: str) -> set[str]:
    """Return those of these packages, and what is in them."""
    return {module for module in loaded if any(module == name or module.startswith(f"{name}.") for name in names)}


@pytest.mark.parametrize(
    "program",
    [
        IMPORTED,
        MADE.format(variables=DIRECT | PLAIN_HTTP),
        MADE.format(variables=REMOTE | PLAIN_HTTP),
        MADE.format(variables=DIRECT),
    ],
    ids=["import", "direct", "lambda", "direct-over-tls"],
)
def test_a_worker_loads_nothing_heavy(program: str) -> None:
    """boto3 costs 776 ms at each cold start, Powertools' Tracer 900, pydantic 240: the layer exists to avoid them."""
    assert of(loaded_by(program), *NEVER) == set()


def test_importing_loads_only_these_modules_of_ours() -> None:
    """What is new in this list should be new on purpose."""
    ours = {module.removeprefix("connection_governor.") for module in of(loaded_by(IMPORTED), "connection_governor")}
    assert ours == {
        "connection_governor",
        "client",
        "client.acquire",
        "client.backoff",
        "client.governor",
        "client.invocation",
        "client.keepalive",
        "client.request",
        "client.sessions",
        "core",
        "core.checks",
        "core.deadline",
        "core.lease",
        "core.plan",
        "core.rules",
        "core.status",
        "core.values",
        "errors",
        "metrics",
        "mysql",
        "mysql.fence",
    }


def test_importing_needs_no_environment() -> None:
    """Tests and type checkers import the package where no variable is set."""
    code = f"import os; os.environ.clear(); import sys; sys.path.insert(0, {str(LAYER)!r}); import connection_governor"
    subprocess.run([sys.executable, "-S", "-c", code], env={}, timeout=30, check=True)


def test_the_public_names_are_those_of_the_contract() -> None:
    """A name that is gone breaks every worker at its next cold start."""
    import connection_governor  # noqa: PLC0415 - what the test is about

    assert {"Governor", "Lease", "NoConnectionsLeft", "GovernorUnavailable"} <= set(connection_governor.__all__)
    assert all(hasattr(connection_governor, name) for name in connection_governor.__all__)
    assert (LAYER / "connection_governor" / "py.typed").exists()


def test_a_cold_worker_loads_neither_dataclasses_nor_inspect() -> None:
    """Breaks: a third of the cold start, unnoticed."""
    program = "from connection_governor import Governor; Governor.from_env(); import sys; print(*sys.modules)"
    variables = {
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "GOVERNOR_TABLE": "t",
    }
    here = {**variables, "PYTHONPATH": str(LAYER)}
    done = subprocess.run([sys.executable, "-c", program], env=here, capture_output=True, text=True, check=True)
    assert not {"dataclasses", "inspect"} & set(done.stdout.split())
