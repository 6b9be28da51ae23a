"""Settings and tables from a backup: the shards' newest plan counts, and no connection is lent a second time."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from connection_governor.aws.dynamodb import DynamoDBStore
from connection_governor.core.lease import Grant, Lease, Refusal
from connection_governor.core.memory import MemoryStore
from tests.support.worlds import SKEW_MS, World, local_store

if TYPE_CHECKING:
    from connection_governor.core.store import LeaseStore

LONGEST_MS = 60_000


def forget_settings(store: LeaseStore, database: str) -> None:
    """Delete the settings item, as by hand in the console."""
    if isinstance(store, MemoryStore):
        store._settings.pop(database, None)
        return
    assert isinstance(store, DynamoDBStore)
    store._call("DeleteItem", {"TableName": store._table, "Key": {"pk": {"S": database}}})


def put_settings(store: LeaseStore, world: World, backup: LeaseStore) -> None:
    """Put the settings item of a backup back over the present one."""
    forget_settings(store, world.database)
    settings = backup.settings(world.database, consistent=True)
    assert settings is not None
    assert store.save_settings(settings, plan_as_read=None)


def copy(store: LeaseStore, world: World, target: LeaseStore) -> None:
    """Copy all items of the world's database, as a backup does."""
    settings = store.settings(world.database, consistent=True)
    assert settings is not None
    shards = store.read(settings.keys, consistent=True)
    if isinstance(store, MemoryStore) and isinstance(target, MemoryStore):
        target._settings[world.database] = settings
        target._shards.update({shard.key: shard for shard in shards if shard is not None})
        return
    assert isinstance(store, DynamoDBStore)
    assert isinstance(target, DynamoDBStore)
    for pk in (world.database, *(f"{key.database}#{key.index}" for key in settings.keys)):
        item = store._call("GetItem", {"TableName": store._table, "Key": {"pk": {"S": pk}}, "ConsistentRead": True})
        target._call("PutItem", {"TableName": target._table, "Item": item["Item"]})


@pytest.fixture
def backup(empty_store: LeaseStore, request: pytest.FixtureRequest) -> LeaseStore:
    """Return another empty store of the same kind."""
    if isinstance(empty_store, MemoryStore):
        return MemoryStore()
    return local_store(request.getfixturevalue("endpoint"))


@pytest.fixture
def grown(empty_store: LeaseStore, backup: LeaseStore) -> World:
    """Return a world of 34 connections over four shards at its third plan; its backup has the first, of one shard."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 3)
    copy(empty_store, world, backup)
    world.operations.set_budget(world.database, 40, shards=4)
    world.operations.set_budget(world.database, 34, shards=4)
    return world


def granted(world: World, tries: int, *, ends_in_ms: int = LONGEST_MS) -> list[Lease]:
    """Return what these tries of a new environment were granted."""
    engine = world.another_engine()
    outcomes = [engine.acquire(world.wanted(ends_in_ms=ends_in_ms)) for _ in range(tries)]
    return [outcome.lease for outcome in outcomes if isinstance(outcome, Grant)]


@pytest.mark.parametrize("lost", ["deleted", "restored"])
def test_a_budget_set_over_lost_settings_is_obeyed_by_every_shard(grown: World, backup: LeaseStore, lost: str) -> None:
    """Plan numbers that begin again are obeyed by no shard: 34 connections would go on being lent of a budget of 5."""
    forget_settings(grown.truth, grown.database)
    if lost == "restored":
        put_settings(grown.truth, grown, backup)
    status = grown.operations.set_budget(grown.database, 5)
    assert status.settled
    assert (status.settings.plan, status.settings.shards_made) == (4, 4)
    assert len(granted(grown, 40)) == 5


def test_leases_in_force_over_lost_settings_count_against_the_new_budget(grown: World) -> None:
    """Forgotten shards would be filled a second time while their holders are at work."""
    held = granted(grown, 34)
    assert len(held) == 34
    forget_settings(grown.truth, grown.database)
    grown.operations.set_budget(grown.database, 36)
    assert len(granted(grown, 40)) == 2
    for lease in held:
        assert grown.another_engine().release(lease)


def test_a_new_database_finds_no_shards_and_begins_at_its_first_plan(empty_store: LeaseStore) -> None:
    """The common case is unchanged."""
    world = World(empty_store)
    status = world.operations.set_budget(world.database, 3)
    assert (status.settings.plan, status.settings.shards_made, status.settled) == (1, 1, True)


def test_an_adopted_backup_lends_nothing_that_a_lost_lease_still_holds(
    empty_store: LeaseStore, backup: LeaseStore
) -> None:
    """A restored table shows as free what was lent after the backup: each holder would get a rival."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 5)
    before = granted(world, 2, ends_in_ms=LONGEST_MS // 2)
    copy(empty_store, world, backup)
    lost = granted(world, 5)
    assert (len(before), len(lost)) == (2, 3)
    restored = World(backup, clock=world.clock, entropy=world.entropy)
    tries: list[object] = []

    def meanwhile() -> None:
        """Workers try while the operator waits."""
        tries.extend(restored.another_engine().acquire(restored.wanted()) for _ in range(6))

    restored.clock.meanwhile.append(meanwhile)
    status = restored.operations.adopt(restored.database, 5, longest_lease_ms=LONGEST_MS)
    assert tries
    assert all(isinstance(outcome, Refusal) for outcome in tries)
    assert restored.clock.now > max(lease.expires_at_ms for lease in lost) + SKEW_MS - 1
    assert (status.settings.allowed, status.settled) == (5, True)
    assert len(granted(restored, 8)) == 5


def test_an_adoption_that_crashes_leaves_the_database_closed(empty_store: LeaseStore) -> None:
    """An open database would grant connections whose missing leases may still be in force."""
    world = World(empty_store)
    world.operations.set_budget(world.database, 3)

    def crash() -> None:
        raise KeyboardInterrupt

    world.clock.meanwhile.append(crash)
    with suppress(KeyboardInterrupt):
        world.operations.adopt(world.database, 3)
    assert granted(world, 3) == []
    assert world.operations.adopt(world.database, 3, longest_lease_ms=0).settled
    assert len(granted(world, 4)) == 3
