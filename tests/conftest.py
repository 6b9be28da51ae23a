"""The servers that tests share: each started once in a session, on loopback, when the first test asks for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness.stack.dynamodb_local import dynamodb_local as running_dynamodb_local
from harness.stack.local_stack import Stack, running_stack
from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.postgresql import PrivatePostgreSQL

# A property fails for what it finds, never for how long a busy machine took to find it.
settings.register_profile("without real time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("without real time")

STACK_TESTS = Path(__file__).parent / "stack"
SERVER_FIXTURES = {
    "mysql": "database",
    "mariadb": "database",
    "postgresql": "database",
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
