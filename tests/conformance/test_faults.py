"""Lost requests, lost answers, late duplicates, rivals in between, time that passes: the engine over every store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from connection_governor.core.deadline import Deadline
from connection_governor.core.lease import Grant, Refusal, ShardKey, pack_record
from connection_governor.core.retry import ACQUIRING, RELEASING
from connection_governor.core.rules import connections_of, shard_order
from connection_governor.errors import GovernorUnavailable, UnknownDatabase
from tests.support.faulty_store import LOST, LOST_ANSWER, REFUSED, SENT_AGAIN, THROTTLED, TWICE, Fault
from tests.support.virtual import NOW_MS
from tests.support.worlds import LEASE_MS, SKEW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.worlds import World


def record_of(connections: int) -> str:
    return pack_record(NOW_MS + LEASE_MS, connections, "checkout")


# Lost answers


def test_an_acquire_whose_answer_was_lost_holds_one_connection(world: World) -> None:
    """Each lost answer would cost two connections, one of which cannot be released."""
    world.store.plan("grant", LOST_ANSWER)
    grant = world.acquire()
    assert isinstance(grant, Grant)
    assert grant.lease.fence is None
    assert world.shard().leases == {grant.lease.lease_id: grant.lease.record}


def test_a_takeover_whose_answer_was_lost_holds_one_connection(world: World) -> None:
    """As for a plain acquire: the retried takeover finds its own lease and not the ones it took. It names them."""
    gone = world.lend(connections=3)
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.store.plan("grant", None, LOST_ANSWER)
    grant = world.acquire()
    assert isinstance(grant, Grant)
    assert set(world.shard().leases) == {grant.lease.lease_id}
    assert grant.lease.taken_over == (gone.session_name,)


def test_the_retry_of_an_acquire_asks_for_exactly_the_same_record(world: World) -> None:
    """With a new id or another end the retry would be a second lease."""
    world.store.plan("grant", LOST, LOST_ANSWER, LOST)
    world.lend()
    asked = {arguments for method, arguments in world.store.calls if method == "grant"}
    assert len(asked) == 1


def test_a_release_whose_answer_was_lost_is_not_repeated_on_another_lease(world: World) -> None:
    """A repeated release would free a connection twice."""
    lease, other = world.lend(), world.lend()
    world.store.plan("remove", LOST_ANSWER)
    assert not world.release(lease)
    assert world.shard().leases == {other.lease_id: other.record}


def test_a_renew_whose_answer_was_lost_has_succeeded(world: World) -> None:
    """The holder would stop in the middle of its work, with its lease in force."""
    lease = world.lend()
    world.store.plan("renew", LOST_ANSWER)
    renewed = world.prolong(lease)
    assert world.shard().leases == {lease.lease_id: renewed.record}


def test_a_renew_that_was_applied_and_never_answered_does_not_keep_the_lease_from_its_release(world: World) -> None:
    """The holder knows only the old end: its slot would be lost until the new one, after each such outage."""
    lease = world.lend()
    world.store.plan("renew", *[LOST_ANSWER] * RELEASING.tries)
    with pytest.raises(GovernorUnavailable):
        world.renew(lease, ends_in_ms=10 * LEASE_MS)
    assert world.shard().leases != {lease.lease_id: lease.record}
    assert world.release(lease)
    assert world.shard().leases == {}


@pytest.mark.parametrize("later_ms", [0, 10, LEASE_MS + 1], ids=["at-once", "later", "past-the-end-it-knows"])
def test_a_renew_is_repeated_after_one_that_was_applied_and_never_answered(world: World, later_ms: int) -> None:
    """`LeaseLost` in the middle of a body, with the lease stored, in force and its own."""
    lease = world.lend()
    world.store.plan("renew", *[LOST_ANSWER] * RELEASING.tries)
    with pytest.raises(GovernorUnavailable):
        world.renew(lease, ends_in_ms=10 * LEASE_MS)
    world.clock.advance(later_ms)
    renewed = world.prolong(lease, ends_in_ms=11 * LEASE_MS)
    assert renewed.expires_at_ms == world.clock.now + 11 * LEASE_MS
    assert world.shard().leases == {lease.lease_id: renewed.record}


def test_a_look_that_shows_the_own_lease_is_a_grant(world: World) -> None:
    """A waiting worker's retried call would be refused while its lease lies in the table until it ends."""
    wanted = world.wanted(connections=3)
    world.engine.acquire(wanted)
    again = world.engine.acquire(wanted, look_first=True)
    assert isinstance(again, Grant)
    assert again.lease == wanted.granted_by(world.shard().key, None)


@pytest.mark.parametrize("look_first", [True, False])
def test_the_own_lease_goes_before_room_elsewhere(sharded: World, look_first: bool) -> None:
    """A retried call that saw its lease in one shard and room in another would take a second connection there."""
    wanted = sharded.wanted()
    order = list(shard_order(wanted.lease_id, 3))
    for index in order[:1]:
        sharded.truth.grant(ShardKey(sharded.database, index), "lease-xx", record_of(2))
    own = ShardKey(sharded.database, order[2])
    sharded.truth.grant(own, wanted.lease_id, wanted.record)
    sharded.truth.grant(own, "lease-yy", record_of(1))
    again = sharded.engine.acquire(wanted, look_first=look_first, last=True)
    assert isinstance(again, Grant)
    assert again.lease == wanted.granted_by(own, None)
    assert [shard.in_use for shard in sharded.shards()] == [{0: 2, 1: 0, 2: 2}[order.index(n)] for n in range(3)]


def test_a_caller_with_time_left_still_recognises_its_own_lease(world: World) -> None:
    """A shard that is full is not worth a write, unless what fills it is the caller's own."""
    wanted = world.wanted(connections=3)
    world.engine.acquire(wanted)
    again = world.engine.acquire(wanted, look_first=True, last=False)
    assert isinstance(again, Grant)


def test_the_own_lease_in_another_shard_is_recognised(sharded: World) -> None:
    """A retried call to the function would be refused what it holds: its first shard was full, and still is."""
    wanted = sharded.wanted()
    first = next(shard_order(wanted.lease_id, 3))
    sharded.truth.grant(ShardKey(sharded.database, first), "lease-xx", record_of(2))
    lent = sharded.engine.acquire(wanted)
    assert isinstance(lent, Grant)
    assert lent.lease.shard != first
    for _ in range(3):
        sharded.lend()
    again = sharded.engine.acquire(wanted)
    assert isinstance(again, Grant)
    assert again.lease == replace(lent.lease, fence=None)


# Late duplicates


def test_a_late_duplicate_of_an_acquire_holds_a_slot_no_longer_than_its_own_end(world: World) -> None:
    """The network may deliver a request again after its lease was released: that must not cost a slot."""
    wanted = world.wanted(connections=3)
    lease = world.lend(lease_id=wanted.lease_id, connections=3)
    world.release(lease)
    world.truth.grant(lease.key, wanted.lease_id, wanted.record)  # the duplicate arrives
    assert world.shard().remaining == 0
    world.refuse()
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.lend(connections=3)


def test_late_duplicates_of_renew_and_release_do_nothing(world: World) -> None:
    """They would bring a lease back without the counter's knowledge, or free what another holds."""
    lease = world.lend()
    renewed = world.prolong(lease)
    world.release(renewed)
    world.lend(connections=3)
    before = world.picture()
    world.truth.renew(lease.key, lease.lease_id, lease.record, renewed.record)
    world.truth.remove(lease.key, ((lease.lease_id, renewed.record),))
    assert world.picture() == before


def test_a_request_that_the_transport_sent_again_is_one_lease_and_one_release(world: World) -> None:
    """The wire client repeats a request once where the kept connection broke: the second answer is the one it sees."""
    world.store.plan("grant", SENT_AGAIN)
    world.store.plan("renew", SENT_AGAIN)
    world.store.plan("remove", SENT_AGAIN)
    lease = world.lend(connections=2)
    assert world.shard().in_use == 2
    renewed = world.prolong(lease)
    world.release(renewed)
    assert (world.shard().in_use, world.shard().leases) == (0, {})


@pytest.mark.parametrize("method", ["grant", "remove", "renew"])
def test_a_write_that_arrives_twice_counts_once(world: World, method: str) -> None:
    """Transport retries below the engine must not move the counter twice."""
    world.store.plan(method, TWICE)
    lease = world.lend(connections=2)
    renewed = world.prolong(lease)
    assert world.shard().in_use == 2
    assert world.release(renewed)
    assert world.shard().in_use == 0


# Rivals in between


def test_two_that_see_the_same_expired_lease_do_not_both_get_its_connection(world: World) -> None:
    """The loser of the race would open one connection too many."""
    world.lend(connections=3)
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    rival, wanted = world.another_engine(), world.wanted(connections=3)

    def takes_it_first() -> None:
        world.store.before["grant"] = lambda: rival.acquire(wanted)

    world.store.before["grant"] = takes_it_first  # the rival moves before the second write: the takeover
    assert isinstance(world.acquire(connections=3), Refusal)
    assert set(world.shard().leases) == {wanted.lease_id}


def test_a_holder_that_renews_in_the_last_moment_keeps_its_lease(world: World) -> None:
    """A takeover that did not compare the exact string would end a lease that was just confirmed."""
    lease = world.lend(connections=3)
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    later = replace(lease, expires_at_ms=lease.expires_at_ms + 2 * LEASE_MS)

    def renews() -> None:
        world.store.before["grant"] = lambda: world.truth.renew(lease.key, lease.lease_id, lease.record, later.record)

    world.store.before["grant"] = renews
    assert isinstance(world.acquire(), Refusal)
    assert world.shard().leases == {lease.lease_id: later.record}


def test_a_look_that_is_out_of_date_is_set_right_by_the_write(world: World) -> None:
    """Eventually consistent reads may refuse, never admit: the write decides."""
    other = world.another_engine()
    wanted = world.wanted(connections=3)
    world.engine.settings(world.database)
    world.store.before["grant"] = lambda: other.acquire(wanted)
    assert isinstance(world.engine.acquire(world.wanted(), look_first=True), Refusal)
    assert set(world.shard().leases) == {wanted.lease_id}


# Time


def test_a_lease_has_expired_only_once_its_expiry_and_the_allowance_have_passed(world: World) -> None:
    """A millisecond earlier a holder with the slowest allowed clock may still be using its connection."""
    world.lend(connections=3)
    world.clock.advance(LEASE_MS + SKEW_MS)
    world.refuse()
    world.clock.advance(1)
    world.lend(connections=3)


def test_a_rival_whose_clock_is_ahead_by_the_allowance_takes_nothing_early(world: World) -> None:
    """Promise 1 is for any two clocks within the allowance."""
    world.lend(connections=3)
    world.clock.advance(LEASE_MS)
    ahead = world.another_engine(ahead_ms=SKEW_MS)
    assert isinstance(ahead.acquire(world.wanted()), Refusal)


def test_the_whole_budget_comes_back_when_every_holder_has_died(world: World) -> None:
    """Promise 2: nothing but time, and no janitor, is needed."""
    for _ in range(3):
        world.lend()
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    for _ in range(3):
        world.lend()
    world.refuse()


@pytest.mark.parametrize("look_first", [True, False])
def test_however_much_has_expired_the_next_acquire_takes_over_what_it_needs(world: World, look_first: bool) -> None:
    """After a lowered budget hundreds may have expired: all would be refused until the janitor comes."""
    world.operations.set_budget(world.database, 400, shards=1)
    for _ in range(300):
        world.lend()
    world.operations.set_budget(world.database, 3)
    world.clock.advance(60_000)
    outcome = world.engine.acquire(world.wanted(connections=2), look_first=look_first)
    assert isinstance(outcome, Grant)
    assert outcome.expired == 300
    assert set(world.shard().leases) == {outcome.lease.lease_id}


def test_a_lease_may_be_renewed_until_its_very_end(world: World) -> None:
    """A holder would lose the last millisecond of its lease, and get `LeaseLost`."""
    lease = world.lend()
    world.clock.advance(LEASE_MS)
    assert world.renew(lease) is not None
    (lease,) = world.status().leases()
    world.clock.advance(LEASE_MS + 1)
    assert world.renew(lease) is None


def test_a_changed_budget_is_known_within_a_minute(world: World) -> None:
    """Environments would continue with yesterday's shards for as long as they live."""
    world.lend()
    world.operations.set_budget(world.database, 4, shards=2)
    world.clock.advance(60_000)
    for _ in range(4):
        world.lend(ends_in_ms=10 * LEASE_MS)
    assert [shard.remaining for shard in world.shards()] == [0, 0]


def test_settings_are_read_once_a_minute(world: World) -> None:
    """A read before each acquire would double its cost."""
    world.store.calls.clear()
    for _ in range(5):
        world.release(world.lend())
    assert world.store.methods() == ["settings", *["grant", "remove"] * 5]


def test_settings_are_read_again_when_the_clock_was_set_back(world: World) -> None:
    """A virtual machine restored from a snapshot would keep old settings for as long as the clock was wrong."""
    world.release(world.lend())
    world.clock.set_back(3_600_000)
    world.store.calls.clear()
    world.engine.settings(world.database)
    assert world.store.methods() == ["settings"]


# Throttled, unreachable


@pytest.mark.parametrize("fault", [LOST, THROTTLED, LOST_ANSWER], ids=["unreachable", "throttled", "answers-lost"])
def test_an_outage_shorter_than_the_retries_is_not_noticed(world: World, fault: Fault) -> None:
    """A single lost packet would fail a customer's request."""
    world.store.plan("settings", *[fault] * (ACQUIRING.tries - 1))
    world.store.plan("grant", *[fault] * (ACQUIRING.tries - 1))
    lease = world.lend()
    world.store.plan("renew", *[fault] * (RELEASING.tries - 1))
    renewed = world.prolong(lease)
    world.store.plan("remove", *[fault] * (RELEASING.tries - 1))
    world.release(renewed)
    assert world.shard().leases == {}


@pytest.mark.parametrize(
    ("method", "tries"),
    [
        ("settings", ACQUIRING.tries),
        ("grant", ACQUIRING.tries),
        ("remove", RELEASING.tries),
        ("renew", RELEASING.tries),
    ],
)
def test_retries_are_bounded_and_then_it_says_so(world: World, method: str, tries: int) -> None:
    """A worker would hang until Lambda kills it, or hammer a table that is throttling."""
    lease = world.lend()
    world.clock.advance(60_000 if method == "settings" else 0)  # what is remembered of the settings is too old
    world.clock.naps.clear()
    world.store.plan(method, *[THROTTLED] * 50)
    world.store.calls.clear()
    verbs: dict[str, Callable[[], object]] = {
        "settings": world.acquire,
        "grant": world.acquire,
        "remove": lambda: world.release(lease),
        "renew": lambda: world.renew(lease),
    }
    with pytest.raises(GovernorUnavailable) as unavailable:
        verbs[method]()
    assert unavailable.value.throttled
    assert world.store.methods() == [method] * tries
    assert sum(world.clock.naps) <= 1.6


def test_what_gives_capacity_back_tries_more_and_waits_less_than_what_takes_it() -> None:
    """When the table throttles, releases would queue behind the acquires that wait for them."""
    assert RELEASING.tries > ACQUIRING.tries
    assert RELEASING.base_ms < ACQUIRING.base_ms
    assert RELEASING.ceiling_ms < ACQUIRING.ceiling_ms


def test_a_failure_that_a_retry_cannot_help_is_tried_once(world: World) -> None:
    """A missing permission would cost every invocation two seconds before its error."""
    world.store.plan("settings", *[REFUSED] * 5)
    world.store.calls.clear()
    with pytest.raises(GovernorUnavailable):
        world.acquire()
    assert world.store.methods() == ["settings"]


def test_no_retry_starts_after_the_deadline(world: World) -> None:
    """A worker would be killed by Lambda in the middle of a wait, with a lease it never used."""
    world.engine.settings(world.database)
    world.store.plan("grant", *[LOST] * 9)
    world.entropy.share = 1.0
    start = world.clock.now
    with pytest.raises(GovernorUnavailable):
        world.engine.acquire(world.wanted(), deadline=Deadline.after(200, world.clock))
    assert world.clock.now <= start + 200


def test_an_acquire_that_failed_with_its_write_applied_costs_only_time(world: World) -> None:
    """Fail closed: the worker gets an error, and the connection comes back by itself."""
    world.store.plan("grant", *[LOST_ANSWER] * ACQUIRING.tries)
    with pytest.raises(GovernorUnavailable):
        world.acquire(connections=3)
    assert world.shard().remaining == 0
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.lend(connections=3)


def test_a_failed_look_at_the_other_shards_is_no_refusal(sharded: World) -> None:
    """An outage would be reported as a full database, and the alarm be the wrong one."""
    for _ in range(6):
        sharded.lend()
    sharded.store.plan("read", *[LOST] * ACQUIRING.tries)
    with pytest.raises(GovernorUnavailable):
        sharded.acquire()


def test_an_unknown_database_is_asked_for_again_next_time(world: World) -> None:
    """A database created after the first try would stay unknown to an environment for a minute."""
    with pytest.raises(UnknownDatabase):
        world.acquire("late")
    world.operations.set_budget("late", 1)
    world.lend("late")


def test_a_release_that_was_applied_is_never_reported_as_an_outage(world: World) -> None:
    """The settings, wanted for a metric only, would turn a release that worked into an error."""
    lease = world.lend()
    world.clock.advance(60_000)  # what is remembered of the settings is too old
    world.store.plan("settings", *[LOST] * 50)
    assert world.release(lease)
    assert world.shard().leases == {}


# The janitor


def test_the_janitor_reclaims_expired_leases_and_nothing_else(world: World) -> None:
    """A quiet database would show connections in use that no worker holds; a busy one would lose live ones."""
    dead = world.lend()
    alive = world.lend(ends_in_ms=2 * LEASE_MS)
    world.clock.advance(LEASE_MS + SKEW_MS)
    assert world.operations.reclaim(world.database) == []
    world.clock.advance(1)
    assert [lease.lease_id for lease in world.operations.reclaim(world.database)] == [dead.lease_id]
    assert set(world.shard().leases) == {alive.lease_id}


def test_two_janitors_at_once_free_each_lease_once(world: World) -> None:
    """A late or doubled schedule would add connections that MySQL does not have."""
    for _ in range(3):
        world.lend()
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.store.before["remove"] = lambda: world.operations.reclaim(world.database)
    assert world.operations.reclaim(world.database) == []
    assert world.shard().remaining == 3


def test_a_janitor_that_races_with_a_release_frees_it_once(world: World) -> None:
    """As for two janitors; and what else was over is left for the next round, or the next acquire."""
    leases = [world.lend() for _ in range(3)]
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.store.before["remove"] = lambda: world.truth.remove(leases[0].key, ((leases[0].lease_id, leases[0].record),))
    world.operations.reclaim(world.database)
    world.operations.reclaim(world.database)
    assert world.shard().remaining == 3


def test_a_great_many_dead_leases_are_all_taken_back(world: World) -> None:
    """After a mass crash the janitor would need an hour of rounds."""
    world.operations.set_budget(world.database, 130, shards=1)
    for _ in range(130):
        world.lend()
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    assert len(world.operations.reclaim(world.database)) == 130
    assert world.shard().remaining == 130


def test_a_great_many_dead_leases_are_taken_over_after_a_lowered_budget(world: World) -> None:
    """Promise 2 without a janitor: one write cannot name them all, so an acquire must make several, or come again."""
    world.operations.set_budget(world.database, 130, shards=1)
    for _ in range(130):
        world.lend()
    world.operations.set_budget(world.database, 2)
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    outcomes = [world.acquire() for _ in range(6)]
    assert sum(isinstance(outcome, Grant) for outcome in outcomes) == 2
    shard = world.shard()
    assert connections_of(tuple(shard.leases.items())) == 2
