"""The rules of the opening rate: however grants come, no span of time sees more than the rate and the burst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core import opening
from connection_governor.core.lease import Settings, Shard, ShardKey
from connection_governor.core.rules import OtherPlan, TooFast, Write, open_in_ms
from connection_governor.core.values import replace
from tests.support.virtual import NOW_MS

if TYPE_CHECKING:
    from connection_governor.core.opening import Pace

RATES = st.integers(1, 10_000)
SHARDS = st.integers(1, 40)
SKEWS = st.integers(0, 5_000)


def settings_of(rate: int, burst: int, *, shards: int = 1, skew_ms: int = 0) -> Settings:
    return Settings("orders", 100, shards, 1, skew_ms=skew_ms, opens_per_second=rate, open_burst=burst, rate_plan=1)


def pace_of(rate: int, burst: int, *, shards: int = 1, skew_ms: int = 0) -> Pace:
    return opening.pace_of(settings_of(rate, burst, shards=shards, skew_ms=skew_ms))


def shard_of(opens_us: int | None, *, plan: int = 1) -> Shard:
    return Shard(ShardKey("orders", 0), 100, 100, 0, plan, opens_us=opens_us)


@given(rate=RATES, shards=SHARDS, skew_ms=SKEWS, more=st.integers(0, 2_000))
def test_shards_add_up_to_the_rate_and_the_burst_at_most(rate: int, shards: int, skew_ms: int, more: int) -> None:
    """Rounded up anywhere, the fleet would open more than the database takes."""
    burst = opening.least_burst(rate, shards=shards, skew_ms=skew_ms) + more
    pace = pace_of(rate, burst, shards=shards, skew_ms=skew_ms)
    clocks_us = (skew_ms + 1) * 1_000
    assert shards * 1_000_000 <= rate * pace.cost_us
    assert shards * (pace.burst_us + clocks_us) <= burst * pace.cost_us


@given(rate=RATES, shards=SHARDS, skew_ms=SKEWS)
def test_the_least_burst_is_the_smallest_with_which_each_shard_can_grant(rate: int, shards: int, skew_ms: int) -> None:
    """With less a shard would stand still forever; with more, an operator could not choose what works."""
    least = opening.least_burst(rate, shards=shards, skew_ms=skew_ms)
    assert pace_of(rate, least, shards=shards, skew_ms=skew_ms).most_connections >= 1
    assert pace_of(rate, least - 1, shards=shards, skew_ms=skew_ms).most_connections < 1
    assert opening.usual_burst(rate, shards=shards, skew_ms=skew_ms) == least + rate


Arrival = tuple[int, int, int, bool]
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 3_000), st.integers(1, 3), st.sampled_from([0, 0, 500, 10_000]), st.booleans()),
    min_size=1,
    max_size=60,
)


@given(arrivals=ARRIVALS, rate=st.integers(1, 50), burst=st.integers(4, 60))
def test_no_span_of_time_sees_more_than_the_burst_and_the_rate(arrivals: list[Arrival], rate: int, burst: int) -> None:
    """This is the promise: one opening too many is one that the database refuses."""
    pace = pace_of(rate, burst)
    due = granted(pace, arrivals)
    for start, (from_us, _) in enumerate(due):
        tokens = 0
        for until_us, count in due[start:]:
            tokens += count
            assert tokens * 1_000_000 <= burst * 1_000_000 + rate * (until_us - from_us)


def granted(pace: Pace, arrivals: list[Arrival]) -> list[tuple[int, int]]:
    """Return (when it is due, connections) of each grant, for arrivals (gap, connections, wait, guesses full)."""
    now_ms, opens_us, due = NOW_MS, NOW_MS * 1_000, []
    for gap_ms, count, wait_ms, guesses_full in arrivals:
        now_ms += gap_ms
        if count > pace.most_connections:
            continue
        step = pace.step(shard_of(opens_us), Write(()), count, now_ms=now_ms, wait_ms=wait_ms)
        if isinstance(step, Write) and step.slack_us is None:
            write = pace.spending(count, now_ms=now_ms, wait_ms=wait_ms)
            assert write.full_us <= opens_us <= write.latest_us
            opens_us += write.cost_us
        elif isinstance(step, Write) and step.slack_us is not None:
            write = pace.refilling(count, now_ms=now_ms, slack_us=0 if guesses_full else step.slack_us)
            assert opens_us < write.full_us
            assert write.refilled_us is not None
            assert write.refilled_us <= now_ms * 1_000
            opens_us = write.refilled_us
        else:
            assert isinstance(step, TooFast)
            assert step.wait_ms > wait_ms
            continue
        due.append((max(now_ms * 1_000, opens_us), count))
    return due


def test_a_refused_caller_that_comes_back_after_its_wait_is_granted() -> None:
    """A wait that is a millisecond short is a second refusal."""
    pace = pace_of(7, 20)
    opens_us = NOW_MS * 1_000 + 12_345
    step = pace.step(shard_of(opens_us), Write(()), 1, now_ms=NOW_MS, wait_ms=0)
    assert isinstance(step, TooFast)
    later = pace.step(shard_of(opens_us), Write(()), 1, now_ms=NOW_MS + step.wait_ms, wait_ms=0)
    assert later == Write(())


@pytest.mark.parametrize("quiet_ms", [1, 200, 10_000])
def test_after_a_refill_the_next_grant_finds_a_token_in_one_write(quiet_ms: int) -> None:
    """Without the slack, each grant of light traffic would find the bucket full again, and need a second write."""
    pace = pace_of(10, 20)
    opens_us = NOW_MS * 1_000 - pace.burst_us - quiet_ms * 1_000
    step = pace.step(shard_of(opens_us), Write(()), 1, now_ms=NOW_MS, wait_ms=0)
    assert isinstance(step, Write)
    assert step.slack_us is not None
    refilled_us = pace.refilling(1, now_ms=NOW_MS, slack_us=step.slack_us).refilled_us
    later = pace.step(shard_of(refilled_us), Write(()), 1, now_ms=NOW_MS + 150, wait_ms=0)
    assert isinstance(later, Write)
    assert (later.slack_us is None) is (quiet_ms < 10_000), "after a long quiet the burst is whole"


@pytest.mark.parametrize(("plan", "is_newer"), [(0, False), (3, True)])
def test_a_shard_with_another_pace_grants_nothing(plan: int, *, is_newer: bool) -> None:
    """Two paces at once would add up to more than either."""
    pace = replace(pace_of(10, 20), first_plan=1, last_plan=2)
    shard = shard_of(NOW_MS * 1_000, plan=plan)
    assert pace.step(shard, Write(()), 1, now_ms=NOW_MS, wait_ms=0) == OtherPlan(is_newer=is_newer)


def test_a_shard_without_an_opening_time_grants_nothing() -> None:
    """Its bucket could be anything."""
    step = pace_of(10, 20).step(shard_of(None), Write(()), 1, now_ms=NOW_MS, wait_ms=0)
    assert step == OtherPlan(is_newer=False)


def test_a_holder_waits_until_its_token_is_due_and_never_longer() -> None:
    """Too early is too fast; too late wastes the connection."""
    assert open_in_ms(None, now_ms=NOW_MS) == 0
    assert open_in_ms(NOW_MS * 1_000 - 5, now_ms=NOW_MS) == 0
    assert open_in_ms(NOW_MS * 1_000 + 1, now_ms=NOW_MS) == 1
    assert open_in_ms(NOW_MS * 1_000 + 2_000, now_ms=NOW_MS) == 2
