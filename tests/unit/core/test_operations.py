"""The operator's commands, beyond what every store shows: status, its report, and missing items."""

from __future__ import annotations

import pytest

from connection_governor.core.lease import ShardKey
from connection_governor.core.memory import MemoryStore
from connection_governor.core.status import status_report
from connection_governor.errors import UnknownDatabase
from tests.support.worlds import LEASE_MS, World


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 6, shards=3)
    return world


def test_leases_are_listed_soonest_end_first(world: World) -> None:
    """The one to look at is the one that should be over."""
    for ends_in_ms in (3_000, 1_000, 2_000, 9_000):
        world.lend(ends_in_ms=ends_in_ms)
    ends = [lease.expires_at_ms - world.clock.now for lease in world.operations.status("orders").leases()]
    assert ends == [1_000, 2_000, 3_000, 9_000]


def test_a_report_has_the_shape_of_the_contract(world: World) -> None:
    """Command line, function and Python give the same."""
    lease = world.lend(connections=2)
    report = status_report(world.operations.status("orders"))
    assert {name: report[name] for name in ("database", "allowed", "in_use", "remaining", "plan", "settled")} == {
        "database": "orders",
        "allowed": 6,
        "in_use": 2,
        "remaining": 4,
        "plan": 1,
        "settled": True,
    }
    assert report["leases"] == [
        {
            "lease_id": lease.lease_id,
            "holder": "checkou",
            "connections": 2,
            "expires_at_ms": world.clock.now + LEASE_MS,
            "shard": lease.shard,
        }
    ]
    assert [shard["shard"] for shard in report["shards"]] == [0, 1, 2]
    assert report["shards"][lease.shard] == {
        "shard": lease.shard,
        "allowed": 2,
        "in_use": 2,
        "remaining": 0,
        "fence": 1,
        "plan": 1,
    }


@pytest.mark.parametrize("verb", ["status", "reclaim"])
def test_an_unknown_database_is_said(world: World, verb: str) -> None:
    """A mistyped name must not look like an empty database."""
    with pytest.raises(UnknownDatabase) as unknown:
        getattr(world.operations, verb)("order")
    assert unknown.value.database == "order"
    assert "set-budget order" in str(unknown.value)


def test_a_shard_that_is_missing_is_left_out_and_made_by_the_next_change(world: World) -> None:
    """A restored backup may lack an item: status must show the rest, and the next plan must restore it."""
    store = world.truth
    assert isinstance(store, MemoryStore)
    del store._shards[ShardKey("orders", 1)]
    status = world.operations.status("orders")
    assert [shard.key.index for shard in status.shards] == [0, 2]
    assert world.operations.settle(status.settings).settled
    assert [shard.allowed for shard in world.shards()] == [2, 2, 2]


def test_two_databases_have_two_budgets(world: World) -> None:
    """One operator's change must not reach another's database."""
    world.operations.set_budget("billing", 2)
    world.operations.set_budget("billing", 1)
    assert world.operations.status("orders").settings.allowed == 6
    assert world.operations.status("billing").settings.allowed == 1
