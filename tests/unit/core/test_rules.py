"""The rules, one by one: what can never be decided, for any shard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core import rules
from connection_governor.core.lease import Shard, ShardKey, pack_record
from connection_governor.core.rules import TAKEN_AT_ONCE, AlreadyGranted, Full, IdInUse, NoSuchShard, Reclaim, Write
from connection_governor.core.store import Written
from tests.support.virtual import NOW_MS

LATELY = rules.WAIT_REMEMBERED_MS
KEY = ShardKey("orders", 0)
SKEW_MS = 1_000
OVER = -SKEW_MS - 1


def record(ends_in_ms: int = 30_000, connections: int = 1, tag: str = "pay") -> str:
    return pack_record(NOW_MS + ends_in_ms, connections, tag)


def shard(allowed: int, *records: str, fence: int = 9) -> Shard:
    leases = {f"held{number:04}": each for number, each in enumerate(records)}
    in_use = rules.connections_of(tuple(leases.items()))
    return Shard(KEY, allowed=allowed, remaining=allowed - in_use, fence=fence, plan=1, leases=leases)


def step(seen: Shard | None, wanted: str | None = None, lease_id: str = "new-0001") -> rules.NextStep:
    return rules.next_step(seen, lease_id, wanted or record(), now_ms=NOW_MS, skew_ms=SKEW_MS)


# A grant that was not written


@pytest.mark.parametrize(
    ("seen", "decision"),
    [
        (None, NoSuchShard()),
        (shard(2, record()), Write(())),
        (shard(1, record()), Full()),
        (shard(0), Full()),
        (shard(1, record(OVER + 1)), Full()),
        (shard(1, record(OVER)), Write((("held0000", record(OVER)),))),
        (shard(2, record(OVER), record()), Write((("held0000", record(OVER)),))),
        (shard(0, record(OVER)), Full()),
        (shard(-1, record(OVER), record(OVER)), Full()),
    ],
    ids=["missing", "room", "full", "nothing", "in-the-allowance", "over", "one-over", "closed", "in-debt"],
)
def test_what_a_refused_grant_leads_to(seen: Shard | None, decision: rules.NextStep) -> None:
    """A refusal with room, or a takeover too early, is what the whole thing exists to prevent."""
    assert step(seen) == decision


def test_the_own_record_under_the_own_id_is_a_grant_and_any_other_a_mistake() -> None:
    """A retry must be recognised whatever else is true of the shard; an id that is used twice must be refused."""
    full = shard(1, record())
    assert step(full, record(), "held0000") == AlreadyGranted()
    assert step(full, record(30_001), "held0000") == IdInUse()
    assert step(full, record(tag="else"), "held0000") == IdInUse()
    assert step(shard(1, record(OVER)), record(OVER), "held0000") == AlreadyGranted()


def test_a_takeover_names_no_more_than_one_write_can() -> None:
    """A longer expression is refused by DynamoDB, and the acquire would fail for good."""
    crowded = shard(100, *[record(OVER)] * 100)
    decision = step(crowded)
    assert isinstance(decision, Write)
    assert len(decision.taken) == TAKEN_AT_ONCE


def test_if_one_write_cannot_free_enough_the_rest_is_reclaimed_first() -> None:
    """After a budget was lowered far, the dead would block the living until the janitor has worked for an hour."""
    indebted = shard(1, *[record(OVER)] * 100)
    decision = step(indebted)
    assert isinstance(decision, Reclaim)
    assert len(decision.taken) == TAKEN_AT_ONCE


SHARDS = st.builds(
    lambda allowed, ends, counts: shard(allowed, *[record(e, c) for e, c in zip(ends, counts, strict=False)]),
    st.integers(0, 6),
    st.lists(st.integers(-5_000, 5_000), max_size=6),
    st.lists(st.integers(1, 3), max_size=6),
)


@given(seen=SHARDS, connections=st.integers(1, 4))
def test_what_is_decided_never_overdraws_and_never_takes_what_is_in_force(seen: Shard, connections: int) -> None:
    """Promise 1, for any shard that can be seen."""
    decision = step(seen, record(connections=connections))
    if isinstance(decision, Write):
        assert seen.remaining + rules.connections_of(decision.taken) >= connections
        assert all(rules.is_reclaimable(each, now_ms=NOW_MS, skew_ms=SKEW_MS) for _, each in decision.taken)
        assert set(decision.taken) <= set(seen.leases.items())


@given(seen=SHARDS, connections=st.integers(1, 4))
def test_no_caller_is_refused_while_expired_leases_would_make_room(seen: Shard, connections: int) -> None:
    """Promise 2, for any shard that can be seen."""
    over = [each for each in seen.leases.items() if rules.is_reclaimable(each[1], now_ms=NOW_MS, skew_ms=SKEW_MS)]
    if seen.remaining + rules.connections_of(tuple(over)) >= connections:
        assert isinstance(step(seen, record(connections=connections)), Write)


# Ends


@pytest.mark.parametrize(("ends_in_ms", "over"), [(0, False), (-1_000, False), (-1_001, True), (30_000, False)])
def test_a_lease_has_expired_once_its_expiry_and_the_whole_allowance_have_passed(ends_in_ms: int, over: bool) -> None:
    """A millisecond too early is an over-grant by the slowest allowed clock."""
    assert rules.is_reclaimable(record(ends_in_ms), now_ms=NOW_MS, skew_ms=SKEW_MS) is over


def test_expired_leases_come_in_portions_that_name_each_once() -> None:
    """A lease left out stays lost, one named twice is freed twice."""
    portions = rules.reclaimable(shard(90, *[record(OVER)] * 85, record()), now_ms=NOW_MS, skew_ms=SKEW_MS)
    assert [len(portion) for portion in portions] == [40, 40, 5]
    assert len({lease_id for portion in portions for lease_id, _ in portion}) == 85


# A renew and a release that were not written


@pytest.mark.parametrize(
    ("stored", "decision"),
    [
        (record(60_000), rules.AlreadyRenewed(NOW_MS + 60_000)),
        (record(90_000), rules.AlreadyRenewed(NOW_MS + 90_000)),
        (record(30_000), Full()),
        (record(45_000), rules.RenewFrom(record(45_000))),
        (record(29_000), rules.NotHeld()),
        (record(45_000, 2), rules.NotHeld()),
        (record(45_000, tag="else"), rules.NotHeld()),
        (record(60_000, 2), rules.NotHeld()),
        (record(60_000, tag="else"), rules.NotHeld()),
    ],
    ids=[
        "as-wanted",
        "later",
        "as-it-was",
        "by-an-earlier-renew",
        "an-earlier-end",
        "in-between-other-count",
        "in-between-other-holder",
        "other-count",
        "other-holder",
    ],
)
def test_what_a_refused_renew_means(stored: str, decision: object) -> None:
    """A holder stops in the middle of its work, or continues without a lease."""
    seen = shard(5, stored)
    assert rules.after_refused_renew(seen, "held0000", record(30_000), record(60_000), now_ms=NOW_MS) == decision


def test_a_renew_by_length_that_is_repeated_does_nothing_more() -> None:
    """Each late duplicate would otherwise prolong the lease of a holder that has crashed since."""
    seen = shard(5, record(45_000))
    decision = rules.after_refused_renew(seen, "held0000", record(30_000), record(60_000), now_ms=NOW_MS, any_end=True)
    assert decision == rules.AlreadyRenewed(NOW_MS + 45_000)


def test_a_lease_past_its_end_is_renewed_by_nothing() -> None:
    """Anyone may take it over at any moment, so its holder must acquire anew."""
    seen = shard(5, record(60_000))
    for any_end in (True, False):
        for asked in (record(60_000), record(90_000)):
            decision = rules.after_refused_renew(
                seen, "held0000", record(30_000), asked, now_ms=NOW_MS + 60_001, any_end=any_end
            )
            assert decision == rules.NotHeld()


def test_a_renew_of_what_is_gone_is_not_held() -> None:
    """The holder must stop, and open nothing more."""
    for seen in (None, shard(5), shard(5, record())):
        decision = rules.after_refused_renew(seen, "gone0000", record(), record(60_000), now_ms=NOW_MS)
        assert decision == rules.NotHeld()


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (record(60_000), record(60_000)),
        (record(30_000), None),
        (record(29_000), None),
        (record(60_000, 2), None),
        (record(60_000, tag="else"), None),
    ],
)
def test_a_release_follows_a_renew_and_nothing_else(stored: str, found: str | None) -> None:
    """A lease that was renewed behind its holder's back is still its own; anything else is not."""
    assert rules.renewed_since(shard(5, stored), "held0000", record(30_000)) == found
    assert rules.renewed_since(None, "held0000", record(30_000)) is None
    assert rules.renewed_since(shard(5, stored), "gone0000", record(30_000)) is None


# Shards


@given(budget=st.integers(0, 100_000), shards=st.integers(1, 300))
def test_shares_add_up_to_the_budget_and_differ_by_one_at_most(budget: int, shards: int) -> None:
    """A connection that is in no share is never granted; one that is in two is granted twice."""
    shares = [rules.share(budget, shards, index) for index in range(shards + 2)]
    assert sum(shares) == budget
    assert max(shares[:shards]) - min(shares[:shards]) <= 1
    assert shares[:shards] == sorted(shares[:shards], reverse=True)
    assert shares[shards:] == [0, 0]


@given(budget=st.integers(0, 100_000))
def test_no_shard_of_a_budget_is_larger_than_a_write_unit_carries(budget: int) -> None:
    """Each write would cost double."""
    shards = rules.shards_for(budget)
    assert rules.share(budget, shards, 0) <= rules.LEASES_PER_SHARD
    assert shards == 1 or rules.share(budget, shards - 1, 0) > rules.LEASES_PER_SHARD, "and no more than needed"


@given(lease_id=st.text("abcXYZ019_-", min_size=8, max_size=16), shards=st.integers(1, 50))
def test_the_order_of_shards_is_fixed_by_the_id_and_leaves_none_out(lease_id: str, shards: int) -> None:
    """A retry that begins elsewhere takes a second connection; a shard left out is a refusal with room."""
    order = list(rules.shard_order(lease_id, shards))
    assert sorted(order) == list(range(shards))
    assert order == list(rules.shard_order(lease_id, shards))


def test_ids_spread_over_the_shards() -> None:
    """All would write to one item, and be throttled with the others idle."""
    first = [next(rules.shard_order(f"lease{number:03}", 4)) for number in range(400)]
    assert min(first.count(index) for index in range(4)) > 60


# Estimates


@pytest.mark.parametrize(
    ("turnover_per_s", "ends_in_ms", "expected"),
    [
        (0, 30_000, 2_000),
        (10, 30_000, 100),
        (1_000, 30_000, 20),
        (0, 500, 1_500),
        (0, -900, 100),
        (0, -5_000, 20),
        (0.1, 30_000, 2_000),
    ],
    ids=["nothing-known", "ten-a-second", "floor", "next-end", "in-the-allowance", "long-over", "ceiling"],
)
def test_when_to_come_back(turnover_per_s: float, ends_in_ms: int, expected: int) -> None:
    """Too early costs a write unit for nothing; too late leaves a connection idle."""
    seen = [shard(1, record(ends_in_ms))]
    found = rules.retry_after_ms(seen, now_ms=NOW_MS, skew_ms=SKEW_MS, turnover_per_s=turnover_per_s)
    assert found == expected


def test_when_to_come_back_where_nothing_was_seen() -> None:
    """A closed database has neither leases nor turnover: there must be an answer all the same."""
    assert rules.retry_after_ms([], now_ms=NOW_MS, skew_ms=SKEW_MS, turnover_per_s=0) == 2_000


@pytest.mark.parametrize(
    ("part", "share_of", "total", "expected"),
    [(1, 2, 6, 3), (0, 2, 6, 0), (2, 0, 6, 0), (3, 2, 6, 9), (1, 2, 8, 4), (1, 3, 4, 1)],
)
def test_a_shards_figure_is_scaled_to_the_database(part: int, share_of: int, total: int, expected: int) -> None:
    """Graphs would show a third of the connections in use."""
    assert rules.scale(part, share_of=share_of, total=total) == expected


@pytest.mark.parametrize(
    ("allowed", "remaining", "waited_ago_ms", "pressed"),
    [(8, 2, None, False), (8, 1, None, True), (8, 8, LATELY - 1, True), (8, 8, LATELY, False), (8, -3, None, True)],
)
def test_pressure_is_little_room_or_a_wait_not_long_ago(
    allowed: int, remaining: int, waited_ago_ms: int | None, pressed: bool
) -> None:
    """Without it idle environments hoard; with too much of it no environment keeps a connection."""
    waited_ms = 0 if waited_ago_ms is None else NOW_MS - waited_ago_ms
    counter = Written(allowed, remaining, fence=1, waited_ms=waited_ms)
    assert rules.is_pressed(counter, now_ms=NOW_MS) is pressed
