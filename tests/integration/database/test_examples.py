"""The examples do what they say: as a user's function would run them, on MySQL, DynamoDB Local and a secret."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from connection_governor.database.credentials import Login
from harness.paths import ROOT
from tests.support.database import SLACK_S, ask
from tests.support.examples import answers, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.core.operations import Operations
    from connection_governor.database.target import Target
    from harness.stack.mysql_family import MySQLFamilyServer

USER, PASSWORD = "example", "a password that every driver can send"
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture
def worker(dynamodb_local: str, shop: MySQLFamilyServer, target: Target) -> Iterator[tuple[Operations, dict[str, str]]]:
    """Yield a budget of two, and the variables of a worker that may have it."""
    shop.create_user(USER, PASSWORD, max_user_connections=2, grants=["SELECT ON shop.*"])
    own = {"DB_USER": USER, "DB_PASSWORD": PASSWORD}  # for the driver that is not opened by the package
    with worker_of(dynamodb_local, target, Login(USER, PASSWORD), **own) as made:
        yield made


def sessions(root: Connection[Cursor]) -> int:
    """Return how many the worker's user has."""
    count: int = ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s", USER)
    return count


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_answers_and_releases(
    worker: tuple[Operations, dict[str, str]], root: Connection[Cursor], example: str
) -> None:
    """What a newcomer copies first."""
    operations, variables = worker
    pieces = [10, 20, None]
    assert answers(variables, example, 1, 2, 3) == [{"statusCode": 200, "pieces": count} for count in pieces]
    assert operations.status("orders").in_use == 0
    ends_at = time.monotonic() + SLACK_S
    while sessions(root) and time.monotonic() < ends_at:
        time.sleep(0.02)
    assert sessions(root) == 0


def test_an_example_says_when_to_come_back(worker: tuple[Operations, dict[str, str]]) -> None:
    """The caller of a refused worker takes it for broken, and hammers."""
    operations, variables = worker
    operations.set_budget("orders", 0)
    (refused,) = answers(variables, "worker.py", 1)
    assert refused["statusCode"] == 503
    assert int(refused["headers"]["Retry-After"]) >= 1
