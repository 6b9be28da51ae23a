"""The servers that tests share: each started once in a session, on loopback, when the first test asks for it.

A test that asks for `database_server` runs on MySQL, and with the mark `every_engine` on MariaDB as well. The
environment variable ENGINES runs all of them on the engines that it names: `ENGINES=mysql,mariadb make test`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness.stack.dynamodb_local import dynamodb_local as running_dynamodb_local
from harness.stack.engines import MYSQL_FAMILY, SERVERS
from harness.stack.local_stack import Stack, running_stack
from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.mysql_family import MySQLFamilyServer
from harness.stack.postgresql import PrivatePostgreSQL

# A property fails for what it finds, never for how long a busy machine took to find it.
settings.register_profile("without real time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without real time")

STACK_TESTS = Path(__file__).parent / "stack"
SERVER_FIXTURES = {
    "mysql": "database",
    "mariadb": "database",
    "postgresql": "database",
    "database_engine": "database",
    "prepared_kind": "database",
    "dynamodb_local": "dynamodb_local",
    "stack": "stack",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by the servers that it asks for, so that `-m "not database"` leaves them out."""
    for item in items:
        if STACK_TESTS in item.path.parents:
            item.add_marker("stack")
        for fixture in set(getattr(item, "fixturenames", ())) & SERVER_FIXTURES.keys():
            item.add_marker(SERVER_FIXTURES[fixture])


def engines_of(test: pytest.Function) -> list[str]:
    """Return the engines, MySQL and MariaDB, that a test is to run on."""
    given = [name.strip() for name in os.environ.get("ENGINES", "").split(",") if name.strip()]
    if unknown := set(given) - set(SERVERS):
        raise pytest.UsageError(f"ENGINES names {', '.join(sorted(unknown))}: use {', '.join(SERVERS)}")
    default = list(MYSQL_FAMILY) if test.get_closest_marker("every_engine") else ["mysql"]
    return [name for name in given or default if name in MYSQL_FAMILY]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each test of `database_server` for its engines."""
    if "database_engine" in metafunc.fixturenames:
        metafunc.parametrize("database_engine", engines_of(metafunc.definition), indirect=True, scope="session")


@pytest.fixture(scope="session")
def database_engine(request: pytest.FixtureRequest) -> str:
    """Return the name of the engine that the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def database_server(database_engine: str, request: pytest.FixtureRequest) -> MySQLFamilyServer:
    """Return the shared server of the engine that the test runs on."""
    server = request.getfixturevalue(database_engine)
    assert isinstance(server, MySQLFamilyServer)
    return server


@pytest.fixture(scope="session")
def new_server(database_engine: str) -> type[MySQLFamilyServer]:
    """Return what starts one more server of the engine that the test runs on."""
    return MYSQL_FAMILY[database_engine]


@pytest.fixture(scope="session")
def mariadb() -> Iterator[PrivateMariaDB]:
    """Yield a private MariaDB with TLS and 20 connections; tests make users of their own."""
    with PrivateMariaDB(max_connections=20) as server:
        yield server


@pytest.fixture(scope="session")
def mysql() -> Iterator[PrivateMySQL]:
    """Yield a private MySQL with TLS and 20 connections; tests make users of their own."""
    with PrivateMySQL(max_connections=20) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PrivatePostgreSQL]:
    """Yield a private PostgreSQL with TLS and 20 connections; tests make roles of their own."""
    with PrivatePostgreSQL(max_connections=20) as server:
        yield server


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[str]:
    """Yield DynamoDB Local's endpoint URL; tests make tables of their own."""
    with running_dynamodb_local() as endpoint_url:
        yield endpoint_url


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Yield the template deployed by sam, a budget of 10 connections, the janitor off; started once in a session."""
    with running_stack(allowed=10, janitor=False) as running:
        yield running
