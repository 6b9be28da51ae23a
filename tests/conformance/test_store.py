"""Each conditional write of `LeaseStore`, on every store: what it changes, and each clause that must stop it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.core.lease import Settings, ShardKey, pack_record
from connection_governor.core.plan import Change
from connection_governor.core.store import Unwritten, Written
from tests.support.virtual import NOW_MS

if TYPE_CHECKING:
    from connection_governor.core.lease import Leases, Shard
    from connection_governor.core.store import LeaseStore

KEY = ShardKey("orders", 0)
MISSING = ShardKey("orders", 7)


def record(*, ends_in_ms: int = 30_000, connections: int = 1, tag: str = "checkout") -> str:
    return pack_record(NOW_MS + ends_in_ms, connections, tag)


@pytest.fixture
def store(empty_store: LeaseStore) -> LeaseStore:
    """Return one shard of three connections, at plan 1, with nothing lent."""
    empty_store.make_shard(KEY, 1)
    assert empty_store.raise_allowed(Change(KEY, 0, 3), 1)
    return empty_store


def shard_of(store: LeaseStore, key: ShardKey = KEY) -> Shard:
    (shard,) = store.read([key], consistent=True)
    assert shard is not None
    return shard


def hold(store: LeaseStore, *leases: tuple[str, str]) -> Leases:
    for lease_id, text in leases:
        assert isinstance(store.grant(KEY, lease_id, text), Written)
    return leases


def lower_to(store: LeaseStore, allowed: int, plan: int = 2) -> None:
    assert store.stamp(Change(KEY, shard_of(store).allowed, allowed), plan)


def refuses(store: LeaseStore, outcome: Written | Unwritten, before: Shard) -> bool:
    """Return whether nothing was written, and the answer shows the shard as it stands."""
    return outcome == Unwritten(before) and shard_of(store) == before


# Grants


def test_a_grant_takes_from_the_counter_and_stores_the_lease_in_one_write(store: LeaseStore) -> None:
    """If counter and leases came apart, the budget would shrink or grow for good."""
    assert store.grant(KEY, "lease-01", record(connections=2)) == Written(allowed=3, remaining=1, fence=1)
    shard = shard_of(store)
    assert shard.leases == {"lease-01": record(connections=2)}
    assert (shard.allowed, shard.remaining, shard.fence) == (3, 1, 1)


def test_the_last_connection_is_granted_and_the_next_is_refused_with_the_shard_shown(store: LeaseStore) -> None:
    """One connection above the budget is one that MySQL refuses to a worker."""
    hold(store, ("lease-01", record()), ("lease-02", record(connections=2)))
    before = shard_of(store)
    assert before.remaining == 0
    assert refuses(store, store.grant(KEY, "lease-03", record()), before)


def test_several_connections_are_granted_together_or_not_at_all(store: LeaseStore) -> None:
    """A pool of two that got one would open the second without a right to it."""
    hold(store, ("lease-01", record(connections=2)))
    assert refuses(store, store.grant(KEY, "lease-02", record(connections=2)), shard_of(store))


@pytest.mark.parametrize("text", [record(), record(ends_in_ms=60_000)], ids=["same-record", "another-record"])
def test_an_id_that_is_stored_is_not_granted_again(store: LeaseStore, text: str) -> None:
    """A retry after a lost answer would take a second connection that no caller releases."""
    hold(store, ("lease-01", record()))
    assert refuses(store, store.grant(KEY, "lease-01", text), shard_of(store))


def test_a_grant_on_a_missing_shard_says_that_there_is_none(store: LeaseStore) -> None:
    """A worker with stale settings must move on to the next shard, not fail, and must not make half a shard."""
    assert store.grant(MISSING, "lease-01", record()) == Unwritten(None)
    assert store.read([MISSING], consistent=True) == [None]


# Takeovers


def test_a_takeover_frees_and_lends_in_one_write(store: LeaseStore) -> None:
    """Done in two writes, a crash between them would lose the slot or lend it twice."""
    seen = hold(store, ("lease-01", record(connections=2)), ("lease-02", record()))
    outcome = store.grant(KEY, "lease-03", record(tag="new"), seen[:1])
    assert outcome == Written(allowed=3, remaining=1, fence=3)
    assert shard_of(store).leases == {"lease-02": record(), "lease-03": record(tag="new")}


def test_a_takeover_of_several_frees_the_sum_of_their_connections(store: LeaseStore) -> None:
    """What was not added up right would be missing from the budget forever."""
    seen = hold(store, ("lease-01", record(connections=2)), ("lease-02", record()))
    assert store.grant(KEY, "lease-03", record(connections=3), seen) == Written(allowed=3, remaining=0, fence=3)


@pytest.mark.parametrize(
    "stored",
    [record(ends_in_ms=30_001), record(connections=2), record(tag="billing")],
    ids=["renewed-since", "other-connections", "other-holder"],
)
def test_a_takeover_compares_the_whole_stored_string(store: LeaseStore, stored: str) -> None:
    """Comparing less takes a slot from a holder that is alive, or moves the counter by a wrong number."""
    hold(store, ("lease-01", stored))
    before = shard_of(store)
    assert refuses(store, store.grant(KEY, "lease-02", record(), (("lease-01", record()),)), before)


def test_a_takeover_of_what_is_gone_frees_nothing(store: LeaseStore) -> None:
    """Two newcomers that saw the same expired lease would both be granted its connection."""
    (first, second) = hold(store, ("lease-01", record(connections=2)), ("lease-02", record()))
    assert isinstance(store.grant(KEY, "lease-03", record(), (first,)), Written)
    assert refuses(store, store.grant(KEY, "lease-04", record(), (first, second)), shard_of(store))


def test_a_takeover_needs_a_new_id_too(store: LeaseStore) -> None:
    """A duplicated takeover would free once and take twice."""
    seen = hold(store, ("lease-01", record()), ("lease-02", record()))
    assert refuses(store, store.grant(KEY, "lease-02", record(tag="again"), seen[:1]), shard_of(store))


def test_after_a_lowered_budget_a_takeover_frees_no_room_that_is_owed(store: LeaseStore) -> None:
    """Exchanging one lease for another would keep MySQL above the new, lower budget for as long as there is demand."""
    seen = hold(store, ("lease-01", record()), ("lease-02", record()), ("lease-03", record()))
    lower_to(store, 1)
    assert shard_of(store).remaining == -2
    assert refuses(store, store.grant(KEY, "lease-04", record(), seen[:2]), shard_of(store))
    assert store.grant(KEY, "lease-04", record(), seen) == Written(allowed=1, remaining=0, fence=4)


def test_a_takeover_may_free_more_than_it_takes(store: LeaseStore) -> None:
    """The rest of what came back must be there for the others."""
    seen = hold(store, ("lease-01", record(connections=3)))
    assert store.grant(KEY, "lease-02", record(), seen) == Written(allowed=3, remaining=2, fence=2)


def test_a_takeover_on_a_missing_shard_says_that_there_is_none(store: LeaseStore) -> None:
    """As for a grant: nothing may be made up."""
    assert store.grant(MISSING, "lease-02", record(), (("lease-01", record()),)) == Unwritten(None)


# Giving back


def test_removing_a_lease_frees_the_connections_in_its_record(store: LeaseStore) -> None:
    """A number from the request instead of the record would move the counter away from the leases."""
    seen = hold(store, ("lease-01", record(connections=2)))
    assert store.remove(KEY, seen) == Written(allowed=3, remaining=3, fence=1)
    assert shard_of(store).leases == {}


def test_removing_a_lease_twice_frees_it_once(store: LeaseStore) -> None:
    """A late duplicate of a release would free a connection that is in use: an over-grant."""
    seen = hold(store, ("lease-01", record()), ("lease-02", record()))
    store.remove(KEY, seen[:1])
    assert refuses(store, store.remove(KEY, seen[:1]), shard_of(store))


@pytest.mark.parametrize(
    "claimed",
    [record(ends_in_ms=29_999), record(connections=3), record(tag="billing"), record(tag="")],
    ids=["other-end", "other-connections", "other-holder", "no-holder"],
)
def test_removing_a_lease_compares_the_whole_stored_string(store: LeaseStore, claimed: str) -> None:
    """Another worker's lease would be released, or more freed than it held."""
    hold(store, ("lease-01", record()))
    assert refuses(store, store.remove(KEY, (("lease-01", claimed),)), shard_of(store))


def test_several_leases_are_removed_together_or_not_at_all(store: LeaseStore) -> None:
    """A janitor that raced with a release would free one connection twice."""
    seen = hold(store, ("lease-01", record()), ("lease-02", record()))
    store.remove(KEY, seen[1:])
    assert refuses(store, store.remove(KEY, seen), shard_of(store))


def test_removing_a_lease_below_zero_only_pays_the_debt(store: LeaseStore) -> None:
    """After a lowered budget, the first connections that come back must not be granted again."""
    seen = hold(store, ("lease-01", record()), ("lease-02", record()), ("lease-03", record()))
    lower_to(store, 1)
    assert store.remove(KEY, seen[:1]) == Written(allowed=1, remaining=-1, fence=3)


def test_removing_a_lease_from_a_missing_shard_shows_that_there_is_none(store: LeaseStore) -> None:
    """A release after a lost table must be an answer, not a crash."""
    assert store.remove(MISSING, (("lease-01", record()),)) == Unwritten(None)


# Renewing


def test_renewing_changes_the_end_and_nothing_else(store: LeaseStore) -> None:
    """A renew that moved the counter or the fence would count its holder twice."""
    hold(store, ("lease-01", record(connections=2)))
    later = record(ends_in_ms=60_000, connections=2)
    assert store.renew(KEY, "lease-01", record(connections=2), later) == Written(allowed=3, remaining=1, fence=1)
    assert shard_of(store).leases == {"lease-01": later}


@pytest.mark.parametrize("claimed", [record(ends_in_ms=1), record(connections=2), record(tag="billing")])
def test_renewing_compares_the_whole_stored_string(store: LeaseStore, claimed: str) -> None:
    """A late renew would shorten a lease under its holder, or prolong another's."""
    hold(store, ("lease-01", record()))
    assert refuses(store, store.renew(KEY, "lease-01", claimed, record(ends_in_ms=60_000)), shard_of(store))


def test_renewing_what_is_gone_does_not_bring_it_back(store: LeaseStore) -> None:
    """A lease that came back without the counter's knowledge would be an over-grant."""
    seen = hold(store, ("lease-01", record()))
    store.remove(KEY, seen)
    assert refuses(store, store.renew(KEY, "lease-01", record(), record(ends_in_ms=60_000)), shard_of(store))
    assert store.renew(MISSING, "lease-01", record(), record()) == Unwritten(None)


# Shards and plans


def test_making_a_shard_again_keeps_its_leases(store: LeaseStore) -> None:
    """A second operator, or a retry, would wipe the leases and grant every connection a second time."""
    hold(store, ("lease-01", record()))
    before = shard_of(store)
    store.make_shard(KEY, 9)
    assert shard_of(store) == before


def test_a_stamp_lowers_a_shard_and_may_leave_it_in_debt(store: LeaseStore) -> None:
    """Lowering must stop grants at once and disconnect no session."""
    hold(store, ("lease-01", record()), ("lease-02", record()))
    assert store.stamp(Change(KEY, 3, 1), 2)
    shard = shard_of(store)
    assert (shard.allowed, shard.remaining, shard.plan, len(shard.leases)) == (1, -1, 2, 2)


def test_a_stamp_that_changes_nothing_still_marks_the_plan(store: LeaseStore) -> None:
    """Unmarked, the shard could later be changed by an operator whose plan is older."""
    assert store.stamp(Change(KEY, 3, 3), 2)
    assert (shard_of(store).allowed, shard_of(store).plan) == (3, 2)


@pytest.mark.parametrize(("change", "plan"), [((3, 1), 1), ((3, 1), 0), ((2, 1), 2)])
def test_a_stamp_needs_an_older_plan_and_the_size_that_was_read(
    store: LeaseStore, change: tuple[int, int], plan: int
) -> None:
    """Of two operators at once the older would overwrite the newer, or both would move the counter."""
    before = shard_of(store)
    assert not store.stamp(Change(KEY, *change), plan)
    assert shard_of(store) == before


def test_a_raise_adds_to_the_counter_what_it_adds_to_the_size(store: LeaseStore) -> None:
    """Setting the counter instead of adding to it would forget the leases."""
    hold(store, ("lease-01", record()))
    assert store.raise_allowed(Change(KEY, 3, 5), 1)
    assert (shard_of(store).allowed, shard_of(store).remaining) == (5, 4)


@pytest.mark.parametrize(("change", "plan"), [((3, 5), 2), ((3, 5), 0), ((2, 5), 1)])
def test_a_raise_needs_this_very_plan_and_the_size_that_was_read(
    store: LeaseStore, change: tuple[int, int], plan: int
) -> None:
    """Capacity that a newer plan gave to another shard, or that was raised already, would be granted twice."""
    before = shard_of(store)
    assert not store.raise_allowed(Change(KEY, *change), plan)
    assert shard_of(store) == before


def test_a_missing_shard_is_neither_stamped_nor_raised(store: LeaseStore) -> None:
    """A shard made by such a write would have no map of leases, and every acquire on it would fail."""
    assert not store.stamp(Change(MISSING, 0, 0), 9)
    assert not store.raise_allowed(Change(MISSING, 0, 3), 9)
    assert store.read([MISSING], consistent=True) == [None]


# Settings and reads


def test_settings_come_back_as_they_were_saved(empty_store: LeaseStore) -> None:
    """A setting that is lost on the way is a lease of another length than the operator asked for."""
    assert empty_store.settings("orders", consistent=True) is None
    settings = Settings("orders", 50, 2, 1, lease_ms=5_000, skew_ms=0, anonymous_lease_ms=60_000, shards_made=4)
    assert empty_store.save_settings(settings, plan_as_read=None)
    assert empty_store.settings("orders", consistent=True) == settings
    assert empty_store.settings("orders", consistent=False) == settings


def test_settings_are_created_once(empty_store: LeaseStore) -> None:
    """Two operators that both create the database would both believe that their budget holds."""
    assert empty_store.save_settings(Settings("orders", 5, 1, 1), plan_as_read=None)
    assert not empty_store.save_settings(Settings("orders", 9, 1, 1), plan_as_read=None)
    found = empty_store.settings("orders", consistent=True)
    assert found is not None
    assert found.allowed == 5


def test_settings_change_only_from_the_plan_that_was_read(empty_store: LeaseStore) -> None:
    """Two plans would get the same number, and shards would mix the two."""
    assert not empty_store.save_settings(Settings("orders", 5, 1, 2), plan_as_read=1)
    assert empty_store.settings("orders", consistent=True) is None
    assert empty_store.save_settings(Settings("orders", 5, 1, 1), plan_as_read=None)
    assert empty_store.save_settings(Settings("orders", 6, 1, 2), plan_as_read=1)
    assert not empty_store.save_settings(Settings("orders", 7, 1, 2), plan_as_read=1)
    found = empty_store.settings("orders", consistent=True)
    assert found is not None
    assert found.allowed == 6


def test_shards_are_read_in_the_order_asked_with_gaps_shown(store: LeaseStore) -> None:
    """A shard taken for another would be changed by the other's figures."""
    other = ShardKey("orders", 2)
    store.make_shard(other, 4)
    shards = store.read([other, MISSING, KEY], consistent=True)
    assert [shard and shard.key for shard in shards] == [other, None, KEY]
    assert store.read([], consistent=True) == []


def test_more_shards_than_one_batch_carries_are_all_read(empty_store: LeaseStore) -> None:
    """A big budget's status would leave shards out, and a plan over them would never settle."""
    keys = [ShardKey("orders", index) for index in range(103)]
    for key in keys:
        empty_store.make_shard(key, 1)
    assert [shard and shard.key for shard in empty_store.read(keys, consistent=True)] == keys


def test_databases_do_not_touch_each_other(store: LeaseStore) -> None:
    """One database's release would free another's connection."""
    other = ShardKey("billing", 0)
    store.make_shard(other, 1)
    hold(store, ("lease-01", record()))
    assert isinstance(store.remove(other, (("lease-01", record()),)), Unwritten)
    assert shard_of(store, other).leases == {}
    assert len(shard_of(store).leases) == 1
