"""Every conformance test runs in each of these worlds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.memory import MemoryStore
from tests.conformance.worlds import World, endpoint_of, local_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.store import LeaseStore
    from connection_governor.wire import Endpoint

WORLDS = ["memory", pytest.param("local", marks=pytest.mark.dynamodb_local)]


@pytest.fixture(scope="session")
def endpoint(dynamodb_local: str) -> Iterator[Endpoint]:
    """The wire client's kept connections to DynamoDB Local."""
    endpoint = endpoint_of(dynamodb_local)
    yield endpoint
    endpoint.close()


@pytest.fixture(params=WORLDS)
def empty_store(request: pytest.FixtureRequest) -> LeaseStore:
    """A store with nothing in it."""
    if request.param == "memory":
        return MemoryStore()
    return local_store(request.getfixturevalue("endpoint"))


@pytest.fixture
def world(empty_store: LeaseStore) -> World:
    """`orders` with a budget of three connections in one shard."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 3)
    return world


@pytest.fixture
def sharded(empty_store: LeaseStore) -> World:
    """`orders` with a budget of six connections in three shards."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 6, shards=3)
    return world
