"""SnapStart with the managed runtime's own hooks: nothing that one environment holds is in the copies of another."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.lease import ShardKey
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.paths import ROOT
from harness.stack.tools import tool
from tests.support.scripted_server import ScriptedServer, answer
from tests.support.worlds import endpoint_of, environment_of, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.stack.mysql_family import MySQLFamilyServer

USER = "restored"


@pytest.fixture
def store(dynamodb_local: str) -> Iterator[DynamoDBStore]:
    """Yield a budget of ten."""
    with closing(endpoint_of(dynamodb_local)) as endpoint:
        store = DynamoDBStore(DynamoDBCaller(endpoint), new_table(endpoint))
        Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 10)
        yield store


@pytest.fixture
def function(
    store: DynamoDBStore, dynamodb_local: str, database_server: MySQLFamilyServer, stage: Path
) -> Iterator[subprocess.Popen[str]]:
    """Yield the function's first environment, which is about to be snapshotted."""
    database_server.create_user(USER, "pw", max_user_connections=5)
    secret = answer({"SecretString": json.dumps({"username": USER, "password": "pw"})})
    with ScriptedServer([secret, secret]) as secrets:
        variables = {
            **environment_of(dynamodb_local, store._table).variables,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets.url,
            "AWS_LAMBDA_FUNCTION_NAME": "checkout",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
            "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
            "GOVERNOR_DATABASE": "orders",
            "GOVERNOR_KEEP_SECONDS": "60",
            "DB_HOST": database_server.host,
            "DB_PORT": str(database_server.port),
            "DB_SECRET_ARN": "arn:secret",
            "DB_TLS_CA": str(database_server.ca_path),
            "PYTHONPATH": str(stage / "python"),
        }
        command = [str(tool("rie", "python")), str(ROOT / "tests/integration/emulator/snapshotted.py")]
        running = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        with running:
            yield running
            assert running.stdin is not None
            running.stdin.close()
            assert running.wait(timeout=20) == 0


def next_line(function: subprocess.Popen[str]) -> dict[str, Any]:
    """Return its next log line other than a metric."""
    assert function.stdout is not None
    while "_aws" in (line := json.loads(function.stdout.readline())):
        continue
    parsed: dict[str, Any] = line
    return parsed


def held(store: DynamoDBStore) -> set[str]:
    """Return the ids of the stored leases."""
    shard = store.read([ShardKey("orders", 0)], consistent=True)[0]
    assert shard is not None
    return set(shard.leases)


def sessions(database_server: MySQLFamilyServer) -> set[int]:
    """Return the sessions that MySQL has."""
    with closing(database_server.root()) as root, root.cursor() as cursor:
        cursor.execute("SELECT processlist_id FROM performance_schema.threads WHERE processlist_user = %s", (USER,))
        return {int(row[0]) for row in cursor.fetchall()}


def test_restored_environments_share_neither_lease_nor_session_nor_socket_nor_name(
    function: subprocess.Popen[str], store: DynamoDBStore, database_server: MySQLFamilyServer
) -> None:
    """One slot of the budget carries as many connections as there are environments."""
    initialized = next_line(function)
    assert initialized["sockets"] == 3  # MySQL's, DynamoDB's, Secrets Manager's
    snapshot = next_line(function)
    assert snapshot == {"sockets": 0}
    assert held(store) == set()
    assert sessions(database_server) == set()
    assert function.stdin is not None
    function.stdin.write("restore\n")
    copies = [next_line(function) for _ in range(3)]
    for what in ("lease", "session", "holder"):
        assert len({one[what] for one in [initialized, *copies]}) == 4
    assert held(store) == {one["lease"] for one in copies}
    assert sessions(database_server) == {one["session"] for one in copies}
