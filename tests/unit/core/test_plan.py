"""A budget change as arithmetic: nothing is counted twice, whatever the shards look like."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core import plan
from connection_governor.core.lease import Settings, Shard, ShardKey
from connection_governor.core.rules import share
from tests.support.virtual import NOW_MS

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
    changes = plan.stamps(shards, settings, now_ms=NOW_MS)
    assert [change.key for change in changes] == [each.key for each in reversed(shards)]
    for each, change in zip(reversed(shards), changes, strict=True):
        assert change.allowed_as_read == each.allowed
        assert change.allowed == min(each.allowed, share(budget, settings.shards, each.key.index))
    assert not plan.stamps(after(shards, changes, 2), settings, now_ms=NOW_MS)


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
    shards = after(shards, plan.stamps(shards, settings, now_ms=NOW_MS), 2)
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


# The opening rate


def rated(settings: Settings) -> Settings:
    return replace(settings, opens_per_second=10, open_burst=30, rate_plan=settings.plan)


def opening_shards(opens_ms: list[int | None], plan_number: int) -> list[Shard]:
    """Return shards of one connection each, whose last tokens were due so long from now."""
    shards = shards_of([(1, 0)] * len(opens_ms), plan_number)
    return [
        replace(each, opens_us=None if ms is None else (NOW_MS + ms) * 1_000)
        for each, ms in zip(shards, opens_ms, strict=True)
    ]


def opened_ms(changes: list[Change]) -> dict[int, int | None]:
    """Return by shard how long from now its next token is due at the earliest; None: as before."""
    return {
        change.key.index: None if change.opens_us is None else change.opens_us // 1_000 - NOW_MS for change in changes
    }


def test_a_new_pace_begins_with_an_empty_bucket() -> None:
    """A shard that was quiet would grant its burst again that others have spent just before."""
    shards, settings = opening_shards([-60_000, -60_000], 1), rated(settings_of(2, 2, 2, 2))
    assert opened_ms(plan.stamps(shards, settings, now_ms=NOW_MS)) == {0: 1_001, 1: 1_001}


def test_a_plan_that_keeps_the_pace_keeps_the_tokens() -> None:
    """Each change of the budget would stop all openings for a second."""
    shards, settings = opening_shards([-60_000, 400], 1), replace(rated(settings_of(2, 2, 2, 2)), rate_plan=1)
    assert opened_ms(plan.stamps(shards, settings, now_ms=NOW_MS)) == {0: None, 1: None}


def test_a_new_pace_waits_for_the_tokens_that_any_shard_has_granted_ahead() -> None:
    """They would come on top of the new rate, for as long as callers wait ahead."""
    shards, settings = opening_shards([100, 9_000], 1), rated(settings_of(2, 2, 2, 2))
    assert opened_ms(plan.stamps(shards, settings, now_ms=NOW_MS)) == {0: 9_000, 1: None}


def test_the_shards_that_a_plan_closes_are_stamped_alone_and_the_last_comes_first() -> None:
    """One that stays gets a higher rate: until the others are closed, the sum would be above the limit."""
    shards, settings = opening_shards([0, 0, 0, 0], 1), rated(settings_of(2, 2, 2, 4))
    closed = plan.stamps(shards, settings, now_ms=NOW_MS)
    assert [change.key.index for change in closed] == [3, 2]
    stamped = [replace(each, plan=2) if each.key.index > 1 else each for each in shards]
    assert [change.key.index for change in plan.stamps(stamped, settings, now_ms=NOW_MS)] == [1, 0]


def test_a_shard_that_opens_waits_for_the_tokens_that_others_have_granted_ahead() -> None:
    """The others granted these at a rate that it now has a part of."""
    shards, settings = opening_shards([8_000, 0], 2), rated(settings_of(2, 2, 2, 2))
    shards[1] = replace(shards[1], allowed=0, remaining=0)
    assert opened_ms(plan.raises(shards, settings)) == {1: 8_000}


def test_a_shard_that_only_grows_keeps_its_tokens() -> None:
    """It has granted by its pace all along."""
    shards, settings = opening_shards([8_000, 0], 2), rated(settings_of(4, 2, 2, 2))
    assert opened_ms(plan.raises(shards, settings)) == {0: None, 1: None}


def test_a_rate_that_is_turned_off_is_removed_and_one_that_was_lost_is_set() -> None:
    """A shard without it could not grant by a rate."""
    shards, off = opening_shards([0, None], 1), settings_of(2, 2, 2, 2)
    assert [change.unlimited for change in plan.stamps(shards, off, now_ms=NOW_MS)] == [False, True]
    assert opened_ms(plan.stamps(shards, replace(rated(off), rate_plan=1), now_ms=NOW_MS)) == {0: None, 1: 1_001}
