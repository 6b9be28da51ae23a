"""What a worker's first import loads: every module is milliseconds of each cold start, ten times that on 128 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pymysql
import pytest
import typing_extensions

from tests.support.answers import settings_item, shard_item
from tests.support.scripted_server import ScriptedServer, Silence, answer

DRIVER = Path(pymysql.__file__).parent
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
    "psycopg",
    "pymysql",
    "ssl",
    "encodings.idna",
    "connection_governor.client.aio",
    "connection_governor.client.sqlalchemy",
    "connection_governor.cli",
    "connection_governor.server.janitor",
    "connection_governor.server.seed",
    "connection_governor.server.seed_request",
    "connection_governor.server.custom_resource",
    "connection_governor.server.mysql",
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


def loaded_by(program: str, *packages: Path) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after the program, besides those it starts with.

    It finds the layer, and these packages; no others that happen to be installed here.
    """
    with TemporaryDirectory() as folder:
        for package in packages:
            (Path(folder) / package.name).symlink_to(package)
        found = f"sys.path[:0] = [{str(LAYER)!r}, {folder!r}]"
        ending = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
        code = f"import sys; before = set(sys.modules); {found}\n{program}\n{ending}"
        command = [sys.executable, "-S", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def of(loaded: set[str], *names: str) -> set[str]:
    """Return those of these packages, with their modules."""
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
        "client.lease_file",
        "client.request",
        "client.sessions",
        "core",
        "core.checks",
        "core.deadline",
        "core.lease",
        "core.values",
        "database",
        "database.fence",
        "errors",
        "metrics",
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


USED = """
import contextlib, os
os.environ.update({variables})
from connection_governor import Governor, GovernorError
governor = Governor.from_env()
with contextlib.suppress(Exception), governor.{use}():
    pass
"""
LEASE = {
    "lease_id": "lease-01",
    "database": "orders",
    "holder": "checkout/1",
    "connections": 1,
    "fence": 1,
    "expires_at_ms": 4_000_000_000_000,
    "shard": 0,
}
TOTALS = {"allowed": 3, "in_use": 1, "remaining": 2, "estimated": False, "pressure": False}
LEASED = {
    "direct": [answer(settings_item()), answer(shard_item(2)), answer(shard_item(3))],
    "lambda": [answer({"granted": True, "lease": LEASE, **TOTALS}), answer({"released": True})],
}
SECRET = answer({"SecretString": '{"username": "worker", "password": "secret"}'})

CLIENT = """connection_governor client client.acquire client.backoff client.governor client.invocation client.keepalive
    client.lease_file client.ports client.request client.sessions core core.checks core.deadline core.lease core.retry
    core.values database database.fence errors metrics system wiring wiring.environment aws aws.client aws.credentials
    aws.endpoints aws.http1 aws.server_date aws.sigv4"""
TRANSPORT = {
    "direct": """wiring.table aws.dynamodb core.acquisition core.engine core.placement core.reading core.rules
        core.shard_stats core.store server server.service""",
    "lambda": "wiring.function aws.invoke client.remote core.codec",
}
SESSION = """wiring.database wiring.mysql aws.secrets database.authorities database.credentials database.patience
    database.server database.target mysql mysql.close mysql.connect mysql.driver mysql.fence mysql.governed mysql.opener
    mysql.plugins mysql.server mysql.session mysql.state mysql.stream mysql.tls"""
POSTGRESQL = """wiring.database wiring.postgresql aws.secrets database.authorities database.credentials
    database.patience database.server database.target postgresql postgresql.commands postgresql.fence
    postgresql.governed postgresql.login postgresql.opener postgresql.refusal postgresql.rules postgresql.session
    postgresql.state postgresql.wire"""


BY_IAM = "wiring.iam aws.database_tokens database.tokens"


@pytest.mark.parametrize("transport", ["direct", "lambda"])
def test_a_worker_that_signs_in_by_iam_asks_for_no_secret(transport: str) -> None:
    """It would need the right to read a secret, and a request more at each cold start."""
    with ScriptedServer([*LEASED[transport], Silence()], [Silence()]) as server:
        variables = {**(DIRECT if transport == "direct" else REMOTE), "AWS_ENDPOINT_URL": server.url}
        variables |= {"DB_HOST": "127.0.0.1", "DB_PORT": "9", "DB_AUTH": "iam", "DB_USER": "worker"}
        loaded = loaded_by(USED.format(variables=variables, use="connection"), DRIVER)
    assert len(server.requests) == len(LEASED[transport]), "all were asked for, and nothing else"
    ours = {module.removeprefix("connection_governor.") for module in of(loaded, "connection_governor")}
    assert ours == {*CLIENT.split(), *TRANSPORT[transport].split(), *SESSION.split(), *BY_IAM.split()}
    assert of(loaded, *NEVER) - of(loaded, "pymysql", "ssl") == set()


@pytest.mark.parametrize("use", ["lease", "connection"])
@pytest.mark.parametrize("transport", ["direct", "lambda"])
def test_a_worker_loads_only_what_it_has_chosen(transport: str, use: str) -> None:
    """A worker that invokes the function would pay for the store, the engine and the payloads at each cold start."""
    with ScriptedServer([*LEASED[transport], Silence()], [SECRET, Silence()]) as server:
        variables = {**(DIRECT if transport == "direct" else REMOTE), "AWS_ENDPOINT_URL": server.url}
        if use == "connection":
            variables |= {"DB_HOST": "127.0.0.1", "DB_PORT": "9", "DB_TLS": "off", "DB_SECRET_ARN": "arn"}
        loaded = loaded_by(USED.format(variables=variables, use=use), *([DRIVER] if use == "connection" else []))
    assert len(server.requests) == len(LEASED[transport]) + (use == "connection"), "all were asked for"
    ours = {module.removeprefix("connection_governor.") for module in of(loaded, "connection_governor")}
    assert ours == {*CLIENT.split(), *TRANSPORT[transport].split(), *(SESSION.split() if use == "connection" else ())}
    driver = {"pymysql", "ssl"} if use == "connection" else set()
    assert of(loaded, *NEVER) - of(loaded, *driver) == set()


def test_a_worker_on_postgresql_loads_nothing_of_mysql() -> None:
    """Each kind of database would cost the other's cold starts: psycopg alone takes as long as all of the rest."""
    with ScriptedServer([*LEASED["lambda"], Silence()], [SECRET, Silence()]) as server:
        variables = {**REMOTE, "AWS_ENDPOINT_URL": server.url, "DB_ENGINE": "postgresql", "DB_HOST": "127.0.0.1"}
        variables |= {"DB_PORT": "9", "DB_TLS": "off", "DB_SECRET_ARN": "arn"}
        packages = [Path(psycopg.__file__).parent, Path(typing_extensions.__file__)]
        loaded = loaded_by(USED.format(variables=variables, use="connection"), *packages)
    assert "psycopg" in loaded, "it was used"
    ours = {module.removeprefix("connection_governor.") for module in of(loaded, "connection_governor")}
    assert ours == {*CLIENT.split(), *TRANSPORT["lambda"].split(), *POSTGRESQL.split()}
    assert of(loaded, "pymysql") == set()


def test_a_worker_on_dsql_loads_postgresqls_sessions_and_its_tokens() -> None:
    """It would read a secret that it has no use for, or pay for both kinds of sessions."""
    with ScriptedServer([*LEASED["lambda"], Silence()], [Silence()]) as server:
        variables = {**REMOTE, "AWS_ENDPOINT_URL": server.url, "DB_ENGINE": "dsql", "DB_HOST": "127.0.0.1"}
        variables |= {"DB_PORT": "9", "DB_USER": "worker"}
        packages = [Path(psycopg.__file__).parent, Path(typing_extensions.__file__)]
        loaded = loaded_by(USED.format(variables=variables, use="connection"), *packages)
    assert len(server.requests) == len(LEASED["lambda"]), "all were asked for, and no secret"
    ours = {module.removeprefix("connection_governor.") for module in of(loaded, "connection_governor")}
    assert ours == {*CLIENT.split(), *TRANSPORT["lambda"].split(), *POSTGRESQL.split(), *BY_IAM.split(), "wiring.dsql"}


def test_a_missing_driver_is_named_with_what_to_install() -> None:
    """The worker would fail with the name of a module that its author never heard of."""
    program = (
        MADE.format(variables=REMOTE | PLAIN_HTTP | {"DB_ENGINE": "postgresql", "DB_HOST": "h"})
        + """
try:
    governor.sessions.opener()
except Exception as error:
    assert type(error).__name__ == "InvalidRequest" and error.field == "DB_ENGINE", error
    assert "connection-governor[postgresql]" in str(error), error
else:
    raise SystemExit("it was opened")
"""
    )
    loaded_by(program)
