"""Budget changes on every store: nothing counts twice, no session is disconnected, a half-done plan is finished."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from connection_governor.core.lease import Grant
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.core.retry import RELEASING
from connection_governor.core.rules import share
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from tests.support.faulty_store import LOST, LOST_ANSWER, WRITES
from tests.support.worlds import LEASE_MS, SKEW_MS, World

if TYPE_CHECKING:
    from connection_governor.core.lease import Lease


def capacity(world: World) -> int:
    """Return how many connections can be in use at most: the allowed ones, or those in use above that."""
    return sum(max(shard.allowed, shard.in_use) for shard in world.shards())


def rival(world: World) -> Operations:
    """Return another operator, without faults."""
    return Operations(world.truth, world.clock, world.entropy)


def fill(world: World, budget: int) -> list[Lease]:
    return [world.lend() for _ in range(budget)]


# Raising and lowering


def test_a_raised_budget_is_granted_at_once(world: World) -> None:
    """An operator who adds connections during an incident would wait for a schedule."""
    fill(world, 3)
    assert world.operations.set_budget(world.database, 5).settled
    fill(world, 2)
    world.refuse()


def test_a_lowered_budget_lends_nothing_until_enough_has_come_back(world: World) -> None:
    """Promise 6: MySQL would stay above its new limit for as long as there is demand."""
    leases = fill(world, 3)
    status = world.operations.set_budget(world.database, 1)
    assert (status.in_use, status.remaining, status.settled) == (3, -2, True)
    world.refuse()
    world.release(leases[0])
    world.refuse()
    world.release(leases[1])
    world.refuse()
    world.release(leases[2])
    world.lend()
    world.refuse()


def test_lowering_disconnects_no_session(world: World) -> None:
    """Work in progress would fail for an operator's change of mind."""
    leases = fill(world, 3)
    world.operations.set_budget(world.database, 0)
    assert set(world.shard().leases) == {lease.lease_id for lease in leases}
    assert all(world.release(lease) for lease in leases)


def test_the_same_budget_again_writes_nothing(world: World) -> None:
    """A deployment that repeats itself would use up plan numbers and wake every shard."""
    before = world.picture()
    world.store.calls.clear()
    world.operations.set_budget(world.database, 3)
    assert world.picture() == before
    assert not set(world.store.methods()) & set(WRITES)


def test_settings_that_are_left_out_stay_as_they_are(world: World) -> None:
    """A change of the budget would silently change the length of leases."""
    world.operations.set_budget(world.database, 3, lease_ms=5_000, skew_ms=0, anonymous_lease_ms=60_000)
    world.operations.set_budget(world.database, 4)
    settings = world.settings()
    assert settings is not None
    assert (settings.lease_ms, settings.skew_ms, settings.anonymous_lease_ms) == (5_000, 0, 60_000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed", -1),
        ("allowed", 100_001),
        ("allowed", True),
        ("allowed", 2.0),
        ("allowed", "3"),
        ("shards", 0),
        ("shards", 4_097),
        ("lease_ms", 999),
        ("lease_ms", 3_600_001),
        ("skew_ms", -1),
        ("anonymous_lease_ms", 0),
        ("database", "or ders"),
    ],
)
def test_a_bad_budget_is_refused_by_name_and_nothing_is_written(world: World, field: str, value: object) -> None:
    """Promise 7: a mistyped budget would let a fleet loose on the database."""
    before = world.picture()
    options = {"database": world.database, "allowed": 4, field: value}
    with pytest.raises(InvalidRequest) as refused:
        world.operations.set_budget(**options)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert world.picture() == before


# Shards


@pytest.mark.parametrize(("budget", "shards"), [(1, 1), (36, 1), (37, 2), (72, 2), (73, 3), (108, 3)])
def test_shards_follow_from_the_budget(world: World, budget: int, shards: int) -> None:
    """Too few cost a second write unit for every acquire; too many cost refusals with room left."""
    status = world.operations.set_budget(world.database, budget)
    assert [shard.allowed for shard in status.shards] == [share(budget, shards, index) for index in range(shards)]
    assert sum(shard.allowed for shard in status.shards) == budget


def test_shards_are_never_deleted_and_come_back(world: World) -> None:
    """A deleted item would take its leases with it, and its connections would be granted a second time."""
    world.operations.set_budget(world.database, 6, shards=3)
    world.lend()
    world.operations.set_budget(world.database, 2, shards=1)
    assert [shard.allowed for shard in world.shards()] == [2, 0, 0]
    world.operations.set_budget(world.database, 6, shards=3)
    assert [shard.allowed for shard in world.shards()] == [2, 2, 2]


def test_capacity_moves_between_shards_only_as_it_comes_back(world: World) -> None:
    """Promise 6: moving it earlier would grant the same connections in two shards."""
    leases = fill(world, 3)
    assert not world.operations.set_budget(world.database, 3, shards=3).settled
    assert [(shard.allowed, shard.in_use) for shard in world.shards()] == [(1, 3), (0, 0), (0, 0)]
    for lease, allowed in zip(leases, [(1, 0, 0), (1, 1, 0), (1, 1, 1)], strict=True):
        settings = world.settings()
        assert settings is not None
        world.operations.settle(settings)
        assert tuple(shard.allowed for shard in world.shards()) == allowed
        assert capacity(world) == 3
        world.release(lease)


def test_a_refused_acquire_finishes_a_plan_that_a_crash_left_half_done(world: World) -> None:
    """With the janitor off, capacity would be stuck in a shard that is no longer used."""
    fill(world, 3)
    world.operations.set_budget(world.database, 3, shards=3)
    world.clock.advance(LEASE_MS + SKEW_MS + 60_000)
    outcomes = []
    for _ in range(12):
        outcomes.append(world.acquire(ends_in_ms=10 * LEASE_MS))
        world.clock.advance(1_000)
    assert sum(isinstance(outcome, Grant) for outcome in outcomes) == 3
    assert [shard.remaining for shard in world.shards()] == [0, 0, 0]


# Operators at once, and crashes


@pytest.mark.parametrize("first", [(5, 1), (2, 2), (6, 3)])
@pytest.mark.parametrize("second", [(4, 2), (1, 1), (9, 3)])
@pytest.mark.parametrize("moment", ["save_settings", "make_shard", "stamp", "raise_allowed", "read"])
def test_of_two_operators_at_once_one_result_is_left_whole(
    world: World, first: tuple[int, int], second: tuple[int, int], moment: str
) -> None:
    """Promise 6: a mixture of the two would be a budget that no operator chose."""
    fill(world, 2)
    world.store.before[moment] = lambda: rival(world).set_budget(world.database, second[0], shards=second[1])
    world.operations.set_budget(world.database, first[0], shards=first[1])
    world.store.before.clear()
    for lease in world.status().leases():
        world.release(lease)
    settings = world.settings()
    assert settings is not None
    world.operations.settle(settings)
    assert (settings.allowed, settings.shards) in {first, second}
    shares = [share(settings.allowed, settings.shards, shard.key.index) for shard in world.shards()]
    assert [shard.allowed for shard in world.shards()] == shares


@pytest.mark.parametrize("plan", [(6, 3), (1, 1), (4, 2), (0, 1)])
@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("applied", [False, True], ids=["request-lost", "answer-lost"])
def test_a_change_that_crashes_anywhere_is_finished_by_the_next_executor(
    sharded: World, plan: tuple[int, int], step: int, applied: bool
) -> None:
    """An operator's laptop that falls asleep in the middle would leave connections that no acquire can get."""
    leases = fill(sharded, 4)
    before = capacity(sharded)
    sharded.store.crash = (step + 1, applied)
    with suppress(GovernorUnavailable):
        sharded.operations.set_budget(sharded.database, plan[0], shards=plan[1])
    sharded.store.crash = None
    assert capacity(sharded) <= max(before, plan[0])
    for lease in leases:
        sharded.release(lease)
    settings = sharded.settings()
    assert settings is not None
    status = sharded.operations.settle(settings)
    assert (settings.allowed, settings.shards) in {plan, (6, 3)}
    assert status.settled
    assert sum(shard.allowed for shard in sharded.shards()) == settings.allowed


def test_a_lost_answer_to_the_settings_is_not_a_second_change(world: World) -> None:
    """The retry would find its own change, take it for another operator's, and number a new plan for nothing."""
    world.store.plan("save_settings", LOST_ANSWER)
    world.operations.set_budget(world.database, 5)
    settings = world.settings()
    assert settings is not None
    assert (settings.allowed, settings.plan) == (5, 2)


def test_operators_that_keep_losing_give_up_and_say_so(world: World) -> None:
    """Two scripts in a loop would hang each other."""
    budgets = iter(range(4, 100))

    def again() -> None:
        rival(world).set_budget(world.database, next(budgets))
        world.store.before["save_settings"] = again

    world.store.before["save_settings"] = again
    with pytest.raises(GovernorUnavailable):
        world.operations.set_budget(world.database, 2)


def test_an_outage_in_the_middle_says_so(world: World) -> None:
    """An operator would believe in a budget that is not in force; the plan must stay open for the next executor."""
    world.store.plan("stamp", *[LOST] * RELEASING.tries)
    with pytest.raises(GovernorUnavailable):
        world.operations.set_budget(world.database, 1)
    status = world.status()
    assert (status.settings.allowed, status.settled) == (1, False)
    assert world.operations.settle(status.settings).settled
    assert world.shard().allowed == 1


# Bounds


@pytest.mark.parametrize(("budget", "shards"), [(100_000, 1), (100_000, 99), (1_001, 1), (3, 4), (0, 2), (1, 4_096)])
def test_shards_too_large_for_an_item_or_without_a_connection_are_refused(
    world: World, budget: int, shards: int
) -> None:
    """A shard of 10,000 leases ends at DynamoDB's 400 KB, and one without a connection turns each look into a loss."""
    before = world.picture()
    with pytest.raises(InvalidRequest) as refused:
        world.operations.set_budget(world.database, budget, shards=shards)
    assert refused.value.field == "shards"
    assert world.picture() == before


@pytest.mark.parametrize(("budget", "shards"), [(1_000, 1), (4, 4), (0, 1), (100_000, 100)])
def test_shards_at_their_bounds_are_accepted(budget: int, shards: int) -> None:
    """An operator with good reasons may use a few large shards, or one for each connection."""
    world = World(MemoryStore())
    assert len(world.operations.set_budget(world.database, budget, shards=shards).shards) == shards
