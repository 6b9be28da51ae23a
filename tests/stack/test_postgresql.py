"""The template with DatabaseEngine=postgresql on the local stack: made, used, watched, changed and deleted."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from harness.demo.referee import WORKER_USER
from harness.stack.deployment import delete, deploy, local_parameters

if TYPE_CHECKING:
    from harness.stack.local_stack import Stack
    from harness.stack.postgresql import PrivatePostgreSQL

NAME, ADMINISTRATOR, PASSWORD, BUDGET = "postgres-shop", "shop_administrator", "Secret-of-the-administrator", 3
SEEDED = "SELECT count(*) FROM pg_roles WHERE rolname IN ('governed_worker', 'governor_monitor')"


def _ask(server: PrivatePostgreSQL, query: str) -> object:
    with closing(server.root()) as root:
        ((value,),) = root.execute(query.encode()).fetchall()
    return value


def _limit(server: PrivatePostgreSQL) -> object:
    return _ask(server, f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{WORKER_USER}'")


def _deployed(stack: Stack, server: PrivatePostgreSQL) -> Stack:
    server.create_administrator(ADMINISTRATOR, PASSWORD)
    secret = json.dumps({"username": ADMINISTRATOR, "password": PASSWORD})
    made = stack.aws.client("secretsmanager").create_secret(Name=f"{NAME}/administrator", SecretString=secret)
    assert server.port is not None
    parameters = local_parameters(
        engine=server.ENGINE,
        allowed=BUDGET,
        endpoint=(server.host, server.port),
        administrator_secret_arn=made["ARN"],
        authority=server.ca_path,
        janitor=False,
    )
    deployed = deploy(stack.aws, parameters, stack_name=NAME)
    return dataclasses.replace(stack, database=server, deployment=deployed, allowed=BUDGET, parameters=parameters)


def _libraries(pid: int) -> set[str]:
    mapped = (line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {path for path in mapped if "libpq" in path}


def test_a_deployment_on_postgresql_serves_is_watched_follows_its_budget_and_goes(
    stack: Stack, postgresql: PrivatePostgreSQL
) -> None:
    """A step that works on MySQL alone shows here: the driver's layer, the roles, the janitor's rights, the limit."""
    shop = _deployed(stack, postgresql)
    held = shop.invoke("WorkerFunctionName", {"hold_ms": 0, "timeout_ms": 5_000})
    assert (held["outcome"], held["rows"]) == ("granted", 3)
    (library,) = _libraries(held["pid"])
    assert "/psycopg_binary.libs/" in library, "the function used this machine's libpq, which Lambda has not"

    assert shop.invoke("JanitorFunctionName", {}) == {"in_use": 0, "reclaimed": 0, "killed": 0}
    _a_session_without_a_lease_is_seen_and_ended(shop, postgresql)
    assert shop.invoke("JanitorFunctionName", {"action": "limit", "connections": 9})["limit"] == _limit(postgresql) == 9

    shop.redeploy(AllowedConnections="2")
    assert _limit(postgresql) == 2
    load = {"operation": "load", "iterations": 8, "concurrency": 8, "hold_ms": 300, "timeout_ms": 20_000}
    report = shop.invoke("HarnessFunctionName", load)
    assert (report["granted"], report["errors"], report["mysql_refused_1040"]) == (8, 0, 0)
    assert report["peak_held"] <= 2
    ungoverned = shop.invoke("HarnessFunctionName", {**load, "governed": False})
    assert ungoverned["mysql_refused_1040"] == ungoverned["errors"] > 0

    delete(shop.aws, NAME)
    assert _ask(postgresql, SEEDED) == 0
    assert _ask(postgresql, "SELECT count(*) FROM pg_database WHERE datname = 'company'") == 0


def _a_session_without_a_lease_is_seen_and_ended(shop: Stack, server: PrivatePostgreSQL) -> None:
    secret: dict[str, Any] = json.loads(
        shop.aws.client("secretsmanager").get_secret_value(SecretId=f"{NAME}/{WORKER_USER}")["SecretString"]
    )
    with closing(
        psycopg.connect(
            host=server.host,
            port=server.port,
            dbname="company",
            user=WORKER_USER,
            password=secret["password"],
            sslmode="verify-full",
            sslrootcert=str(server.ca_path),
        )
    ) as session:
        (seen,) = shop.invoke("JanitorFunctionName", {"action": "sessions", "by": "anna@bastion"})["sessions"]
        assert (seen["session"], seen["lease_id"]) == (session.info.backend_pid, None)
        ended = shop.invoke("JanitorFunctionName", {"action": "kill", "session": seen["session"]})
        assert ended == {"killed": [seen["session"]]}
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
