"""The examples do what they say: as a user's function would run them, on MariaDB, DynamoDB Local and a secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.paths import ROOT
from tests.support.database import SLACK_S, ask
from tests.support.scripted_server import ScriptedServer, answer
from tests.support.worlds import endpoint_of, environment_of, local_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

ENVIRONMENT = """
import json, runpy, sys, time
class Context:
    def get_remaining_time_in_millis(self):
        return int(1_000 * (ends_s - time.monotonic()))
handler = runpy.run_path(sys.argv[1])["handler"]
for article in sys.argv[2:]:
    ends_s = time.monotonic() + 20
    print(json.dumps(handler({"id": int(article)}, Context())), flush=True)
"""
USER, PASSWORD = "example", "a password that every driver can send"
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture
def operations(
    dynamodb_local: str, shop: MySQLFamilyServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operations]:
    """Yield a budget of two, and the variables of a worker that may have it."""
    shop.create_user(USER, PASSWORD, max_user_connections=2, grants=["SELECT ON shop.*"])
    endpoint = endpoint_of(dynamodb_local)
    store = local_store(endpoint)
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget("orders", 2)
    secret = answer({"SecretString": json.dumps({"username": USER, "password": PASSWORD})})
    with ScriptedServer([secret] * 4) as secrets:
        variables = {
            **environment_of(dynamodb_local, store._table, GOVERNOR_DATABASE="orders").variables,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets.url,
            "DB_HOST": target.host,
            "DB_PORT": str(target.port),
            "DB_NAME": "shop",
            "DB_SECRET_ARN": "arn:secret",
            "DB_TLS_CA": str(target.tls_ca),
            "DB_USER": USER,
            "DB_PASSWORD": PASSWORD,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield operations
    endpoint.close()


def answers(example: str, *articles: int) -> list[dict[str, Any]]:
    """Return what its handler answers to one event after the other, in a process of its own."""
    command = [sys.executable, "-c", ENVIRONMENT, str(ROOT / "examples" / example), *map(str, articles)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "layers" / "governor")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"statusCode"')]


def sessions(root: Connection[Cursor]) -> int:
    """Return how many the worker's user has."""
    count: int = ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s", USER)
    return count


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_answers_and_releases(operations: Operations, root: Connection[Cursor], example: str) -> None:
    """What a newcomer copies first."""
    pieces = [10, 20, None]
    assert answers(example, 1, 2, 3) == [{"statusCode": 200, "pieces": count} for count in pieces]
    assert operations.status("orders").in_use == 0
    ends_at = time.monotonic() + SLACK_S
    while sessions(root) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert sessions(root) == 0


def test_an_example_says_when_to_come_back(operations: Operations) -> None:
    """The caller of a refused worker takes it for broken, and hammers."""
    operations.set_budget("orders", 0)
    (refused,) = answers("worker.py", 1)
    assert refused["statusCode"] == 503
    assert int(refused["headers"]["Retry-After"]) >= 1
