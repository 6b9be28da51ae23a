"""Every conformance test runs in each of these worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.core.memory import MemoryStore
from tests.support.worlds import Deployment, World, endpoint_of, local_store, through_payloads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.aws.client import Endpoint
    from connection_governor.core.store import LeaseStore
    from harness.stack.local_stack import Stack

WORLDS = ["memory", pytest.param("local", marks=pytest.mark.dynamodb_local)]


@pytest.fixture(scope="session")
def endpoint(dynamodb_local: str) -> Iterator[Endpoint]:
    """Yield the wire client's kept connections to DynamoDB Local."""
    endpoint = endpoint_of(dynamodb_local)
    yield endpoint
    endpoint.close()


@pytest.fixture(params=WORLDS)
def empty_store(request: pytest.FixtureRequest) -> LeaseStore:
    """Return a store with nothing in it."""
    if request.param == "memory":
        return MemoryStore()
    return local_store(request.getfixturevalue("endpoint"))


@pytest.fixture
def world(empty_store: LeaseStore) -> World:
    """Return the database `orders` with a budget of three connections in one shard."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 3)
    return world


@pytest.fixture
def sharded(empty_store: LeaseStore) -> World:
    """Return the database `orders` with a budget of six connections in three shards."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 6, shards=3)
    return world


@pytest.fixture(scope="session")
def deployment(stack: Stack) -> Iterator[Deployment]:
    """Yield the deployed function and its table."""
    found = Deployment.of(stack)
    yield found
    for end in found.endpoints:
        end.close()


OPEN_WORLDS = [
    "memory",
    pytest.param("local", marks=pytest.mark.dynamodb_local),
    "payloads",
    pytest.param("stack", marks=pytest.mark.stack),
]


@pytest.fixture(params=OPEN_WORLDS)
def open_world(request: pytest.FixtureRequest) -> World:
    """Return a world without a budget, by each transport; only for tests that move no clock and plan no faults."""
    if request.param == "stack":
        deployment: Deployment = request.getfixturevalue("deployment")
        return deployment.world()
    if request.param == "local":
        return World(local_store(request.getfixturevalue("endpoint")))
    world = World(MemoryStore())
    return through_payloads(world) if request.param == "payloads" else world
