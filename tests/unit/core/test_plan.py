"""A budget change as arithmetic: nothing is counted twice, whatever the shards look like."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core import plan
from connection_governor.core.lease import Settings, Shard, ShardKey
from connection_governor.core.rules import share

if TYPE_CHECKING:
    from connection_governor.core.plan import Change

Sizes = list[tuple[int, int]]
SIZES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=5)
BUDGETS = st.integers(0, 20)


def shards_of(sizes: list[tuple[int, int]], plan_number: int) -> list[Shard]:
    """Return shards with these (allowed, in use)."""
    return [
        Shard(ShardKey("orders", index), allowed=allowed, remaining=allowed - in_use, fence=0, plan=plan_number)
        for index, (allowed, in_use) in enumerate(sizes)
    ]


def settings_of(budget: int, count: int, plan_number: int, made: int) -> Settings:
    return Settings("orders", budget, shards=min(count, made), plan=plan_number, shards_made=made)


def after(shards: list[Shard], changes: list[Change], plan_number: int) -> list[Shard]:
    """Return the shards with these changes written."""
    sizes = {change.key: change for change in changes}
    return [
        replace(
            each, allowed=sizes[each.key].allowed, remaining=each.remaining + sizes[each.key].added, plan=plan_number
        )
        if each.key in sizes
        else each
        for each in shards
    ]


def committed(shards: list[Shard]) -> int:
    return sum(max(each.allowed, each.in_use) for each in shards)


@given(sizes=SIZES, budget=BUDGETS, count=st.integers(1, 5))
def test_the_first_phase_touches_every_shard_and_raises_none(sizes: Sizes, budget: int, count: int) -> None:
    """A shard that is left out can still be raised by an older operator; one that is raised now is counted twice."""
    shards = shards_of(sizes, 1)
    settings = settings_of(budget, count, 2, len(shards))
    changes = plan.stamps(shards, settings)
    assert [change.key for change in changes] == [each.key for each in shards]
    for each, change in zip(shards, changes, strict=True):
        assert change.allowed_as_read == each.allowed
        assert change.allowed == min(each.allowed, share(budget, settings.shards, each.key.index))
    assert not plan.stamps(after(shards, changes, 2), settings)


@given(sizes=SIZES, budget=BUDGETS, count=st.integers(1, 5))
def test_the_second_phase_hands_out_only_what_has_come_back(sizes: Sizes, budget: int, count: int) -> None:
    """Promise 6: what a lowered shard still has in use would be granted a second time elsewhere."""
    shards = shards_of(sizes, 2)
    settings = settings_of(budget, count, 2, len(shards))
    changes = plan.raises(shards, settings)
    assert all(change.added > 0 for change in changes)
    raised = after(shards, changes, 2)
    assert committed(raised) <= max(budget, committed(shards))
    for change in changes:
        assert change.allowed <= share(budget, settings.shards, change.key.index)


@given(sizes=SIZES, budget=BUDGETS, count=st.integers(1, 5))
def test_a_shard_is_raised_only_once_all_before_it_have_their_share(sizes: Sizes, budget: int, count: int) -> None:
    """Two executors of one plan would each give the same free connection to another shard."""
    shards = shards_of(sizes, 2)
    settings = settings_of(budget, count, 2, len(shards))
    changes = plan.raises(shards, settings)
    for change in changes:
        before = after(shards, changes, 2)[: change.key.index]
        assert all(each.allowed >= share(budget, settings.shards, each.key.index) for each in before)


@given(sizes=SIZES, budget=BUDGETS, count=st.integers(1, 5))
def test_once_everything_has_come_back_the_plan_is_carried_out_whole(sizes: Sizes, budget: int, count: int) -> None:
    """A budget that never arrives is one that the operator sets again, and again."""
    shards = shards_of([(allowed, 0) for allowed, _ in sizes], 1)
    settings = settings_of(budget, count, 2, len(shards))
    shards = after(shards, plan.stamps(shards, settings), 2)
    shards = after(shards, plan.raises(shards, settings), 2)
    assert plan.is_settled(shards, settings)
    assert sum(each.allowed for each in shards) == budget
    assert not plan.raises(shards, settings)


def test_a_newer_plan_stops_an_older_one() -> None:
    """Two operators at once: the older must write nothing more."""
    settings = settings_of(5, 1, 2, 1)
    assert plan.is_superseded(shards_of([(5, 0)], 3), settings)
    assert not plan.is_superseded(shards_of([(5, 0)], 2), settings)


def test_a_shard_is_short_while_its_share_has_not_arrived() -> None:
    """A refused caller then finishes the plan; without that only the janitor would."""
    settings = settings_of(4, 2, 2, 2)
    full, short = shards_of([(2, 0), (1, 0)], 2)
    assert not plan.is_short(full, settings)
    assert plan.is_short(short, settings)
    assert not plan.is_short(replace(short, plan=3), settings)
