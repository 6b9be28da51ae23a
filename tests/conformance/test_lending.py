"""Acquire, renew, release and takeover, as a worker sees them through its transport: the same in every world.

Nothing here moves a clock: a lease that is over is one that was written with an end in the past, so that the same
bodies run against the deployed function, which has a clock of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.core.lease import Grant, Refusal, Renewal
from connection_governor.errors import InvalidRequest, UnknownDatabase
from tests.support.worlds import LEASE_MS

if TYPE_CHECKING:
    from tests.support.worlds import World

LONG_OVER = -30_000
JUST_OVER = -200  # past its end, yet within the allowance for clocks
ALLOWANCE_MS = 15_000  # longer than a test takes where the clock runs on


@pytest.fixture
def world(open_world: World) -> World:
    """Return a budget of three connections in one shard."""
    open_world.operations.set_budget(open_world.database, 3, skew_ms=ALLOWANCE_MS)
    return open_world


@pytest.fixture
def sharded(open_world: World) -> World:
    """Return a budget of six connections in three shards."""
    open_world.operations.set_budget(open_world.database, 6, shards=3, skew_ms=ALLOWANCE_MS)
    return open_world


# Acquire


def test_exactly_the_budget_is_granted_and_then_refused(world: World) -> None:
    """One more is a MySQL error 1040 for a worker; one fewer is a connection that no worker can use."""
    outcomes = [world.acquire() for _ in range(5)]
    assert [isinstance(outcome, Grant) for outcome in outcomes] == [True, True, True, False, False]
    shard = world.shard()
    assert (shard.remaining, len(shard.leases)) == (0, 3)


def test_a_grant_tells_the_lease_and_what_is_left(world: World) -> None:
    """A worker with a wrong expiry uses its connection after it was granted to another."""
    wanted = world.wanted(connections=2, holder="checkout/2f1c")
    grant = world.transport.acquire(wanted)
    assert isinstance(grant, Grant)
    lease = grant.lease
    assert (lease.lease_id, lease.database, lease.holder) == (wanted.lease_id, world.database, "checkout/2f1c")
    assert (lease.connections, lease.expires_at_ms, lease.shard) == (2, wanted.expires_at_ms, 0)
    assert (grant.allowed, grant.in_use, grant.remaining, grant.estimated, grant.pressure) == (3, 2, 1, False, False)
    assert world.shard().leases == {lease.lease_id: lease.record}


def test_a_refusal_tells_what_is_in_use_and_when_to_come_back(world: World) -> None:
    """Without a bound, refused callers hammer the table or wait without end."""
    world.lend(connections=3)
    refusal = world.refuse()
    assert (refusal.allowed, refusal.in_use, refusal.remaining) == (3, 3, 0)
    assert 20 <= refusal.retry_after_ms <= 2_000


def test_the_last_connection_comes_with_pressure(world: World) -> None:
    """Environments would keep idle connections while others are refused."""
    assert isinstance(first := world.acquire(), Grant)
    assert not first.pressure
    world.lend()
    assert isinstance(last := world.acquire(), Grant)
    assert last.pressure


def test_fences_grow_with_each_grant_of_a_shard(world: World) -> None:
    """A resource that checks the fence would let an old holder write over a new one."""
    fences = []
    for _ in range(4):
        lease = world.lend()
        fences.append(lease.fence)
        world.release(lease)
    assert fences == [1, 2, 3, 4]


def test_a_repeated_acquire_is_the_same_lease(world: World) -> None:
    """A lost answer would cost a second connection, whose id no caller knows."""
    wanted = world.wanted()
    first, again = world.transport.acquire(wanted), world.transport.acquire(wanted)
    assert isinstance(first, Grant)
    assert isinstance(again, Grant)
    assert again.lease == replace(first.lease, fence=None)
    assert (again.in_use, len(world.shard().leases)) == (1, 1)


def test_a_repeated_acquire_is_recognised_when_the_budget_is_used_up(world: World) -> None:
    """The holder of the last connection would be refused what it has, and hold it until its end."""
    wanted = world.wanted(connections=3)
    world.transport.acquire(wanted)
    again = world.transport.acquire(wanted)
    assert isinstance(again, Grant)
    assert again.lease.expires_at_ms == wanted.expires_at_ms
    assert again.remaining == 0


@pytest.mark.parametrize(
    "change",
    [{"connections": 2}, {"ends_in_ms": LEASE_MS + 1}, {"holder": "billing/1"}],
    ids=lambda change: str(*change),
)
def test_an_id_that_another_lease_has_is_refused_by_name(world: World, change: dict[str, Any]) -> None:
    """Two leases with one id: the release of either would end the other."""
    world.lend(lease_id="lease-own")
    before = world.picture()
    with pytest.raises(InvalidRequest) as refused:
        world.acquire(lease_id="lease-own", **change)
    assert refused.value.field == "lease_id"
    assert world.picture() == before


def test_more_connections_than_the_budget_is_an_error_and_not_a_refusal(world: World) -> None:
    """A worker would wait for what can never come."""
    world.lend(connections=3)
    with pytest.raises(InvalidRequest) as refused:
        world.acquire(connections=4)
    assert refused.value.field == "connections"


def test_a_database_without_a_budget_is_unknown(world: World) -> None:
    """A mistyped name must not open an unbounded budget of its own."""
    with pytest.raises(UnknownDatabase):
        world.acquire("mistyped")
    with pytest.raises(UnknownDatabase):
        world.transport.status("mistyped")
    assert world.settings("mistyped") is None


def test_a_budget_of_nothing_refuses_every_caller(world: World) -> None:
    """An operator who closes a database for maintenance must be obeyed."""
    world.operations.set_budget("closed", 0)
    assert world.refuse("closed").allowed == 0


# Takeover


def test_an_expired_lease_is_taken_over_by_the_next_acquire_that_needs_it(world: World) -> None:
    """A crashed worker's connection would stay lost, however full the database is."""
    gone = world.lend_long_ago(connections=3, ends_in_ms=LONG_OVER)
    lease = world.lend()
    shard = world.shard()
    assert set(shard.leases) == {lease.lease_id}
    assert shard.remaining == 2
    assert lease.taken_over == (gone.session_name,)
    assert not world.release(gone)


def test_one_acquire_takes_over_several_where_it_needs_them(world: World) -> None:
    """An acquire for two connections would starve behind two crashed holders of one."""
    gone = [world.lend_long_ago(ends_in_ms=LONG_OVER) for _ in range(3)]
    lease = world.lend(connections=2)
    assert set(world.shard().leases) == {lease.lease_id}
    assert set(lease.taken_over) == {one.session_name for one in gone}


def test_within_the_allowance_for_clocks_nothing_is_taken_over(world: World) -> None:
    """A holder whose clock is a little behind still uses its connection: MySQL would count one too many."""
    held = [world.lend(ends_in_ms=JUST_OVER) for _ in range(3)]
    world.refuse()
    assert set(world.shard().leases) == {lease.lease_id for lease in held}


def test_while_there_is_room_no_lease_is_taken_over(world: World) -> None:
    """Its holder may yet release it: that is one cheap write fewer for every other caller."""
    old = world.lend_long_ago(ends_in_ms=LONG_OVER)
    assert world.lend().taken_over == ()
    assert old.lease_id in world.shard().leases


def test_a_holder_that_was_taken_over_cannot_renew_or_release_what_is_now_anothers(world: World) -> None:
    """A frozen worker that wakes would end the session of its successor."""
    old = world.lend_long_ago(connections=3, ends_in_ms=LONG_OVER)
    new = world.lend(connections=3)
    before = world.picture()
    assert world.renew(old) is None
    assert not world.release(old)
    assert world.picture() == before
    assert world.release(new)


# Release


def test_a_release_gives_the_connection_to_the_next(world: World) -> None:
    """A fleet would stop after its first budget of calls."""
    leases = [world.lend() for _ in range(3)]
    world.refuse()
    assert world.release(leases[1])
    world.lend()
    world.refuse()


def test_a_repeated_release_does_nothing_more(world: World) -> None:
    """Each lost answer to a release would add a connection to the budget that MySQL does not have."""
    lease = world.lend()
    world.lend()
    assert world.release(lease)
    assert not world.release(lease)
    assert world.shard().remaining == 2


@pytest.mark.parametrize("connections", [2, 3])
def test_a_release_that_claims_more_connections_changes_nothing(world: World, connections: int) -> None:
    """The number in a request would move the counter: an over-grant for the price of a wrong payload."""
    lease = world.lend()
    before = world.picture()
    assert not world.release(replace(lease, connections=connections))
    assert world.picture() == before


@pytest.mark.parametrize("change", [{"holder": "billing/9"}, {"shard": 1}, {"lease_id": "lease-xyz"}], ids=str)
def test_a_lease_that_is_not_quite_the_stored_one_cannot_be_released(world: World, change: dict[str, Any]) -> None:
    """One worker's mistake would free a connection that another is using."""
    lease = world.lend()
    before = world.picture()
    assert not world.release(replace(lease, **change))
    assert world.picture() == before


def test_a_lease_of_another_database_changes_neither(world: World) -> None:
    """A worker of two databases that mixes up its leases would free a connection of the wrong one."""
    other = f"{world.database}-b"
    world.operations.set_budget(other, 3)
    lease = world.lend()
    world.lend(other)
    before = world.picture(world.database, other)
    assert not world.release(replace(lease, database=other))
    assert world.renew(replace(lease, database=other)) is None
    assert world.picture(world.database, other) == before


def test_a_lease_past_its_end_that_is_still_stored_can_be_released(world: World) -> None:
    """A slow worker that closes late would have to leave its connection to expiry."""
    lease = world.lend_long_ago(ends_in_ms=LONG_OVER)
    assert world.release(lease)
    assert world.shard().remaining == 3


# Renew


def test_a_renew_moves_the_end_and_keeps_the_connection(world: World) -> None:
    """A worker that runs long would lose its connection in the middle."""
    lease = world.lend()
    renewed = world.prolong(lease)
    assert renewed.lease_id == lease.lease_id
    assert renewed.expires_at_ms >= lease.expires_at_ms + LEASE_MS
    assert renewed == replace(lease, expires_at_ms=renewed.expires_at_ms)
    assert world.shard().leases == {lease.lease_id: renewed.record}
    assert world.release(renewed)


def test_a_renewed_lease_is_released_whole_by_a_holder_of_the_older_value(world: World) -> None:
    """`with governor.lease() as lease` releases what it acquired: a renew in its body would cost the slot each time."""
    lease = world.lend(connections=2)
    world.prolong(world.prolong(lease), ends_in_ms=3 * LEASE_MS)
    assert world.release(lease)
    assert (world.shard().leases, world.shard().remaining) == ({}, 3)


def test_only_a_later_expiry_of_the_same_lease_is_released_so(world: World) -> None:
    """The number of connections and the holder come from the stored record, never from the request."""
    renewed = world.prolong(lease := world.lend())
    before = world.picture()
    for other in (
        replace(lease, connections=2),
        replace(lease, holder="billing/9"),
        replace(renewed, expires_at_ms=renewed.expires_at_ms + 1),
    ):
        assert not world.release(other)
    assert world.picture() == before


def test_a_renew_never_shortens(world: World) -> None:
    """A late or careless renew would let others in while the holder still works."""
    lease = world.lend(ends_in_ms=2 * LEASE_MS)
    assert world.prolong(lease, ends_in_ms=LEASE_MS).expires_at_ms == lease.expires_at_ms


def test_a_repeated_renew_has_succeeded(world: World) -> None:
    """After a lost answer the holder would give up a lease that it has."""
    lease = world.lend()
    end_ms = world.clock.now + 2 * LEASE_MS
    first = world.transport.renew(lease, expires_at_ms=end_ms)
    assert isinstance(first, Renewal)
    assert world.transport.renew(lease, expires_at_ms=end_ms) == first


def test_a_renew_from_an_older_value_of_the_lease_goes_on_from_what_is_stored(world: World) -> None:
    """After a renew whose answer was lost its holder knows only the older value: it would stop with its lease alive."""
    lease = world.lend()
    world.prolong(lease)
    renewed = world.prolong(lease, ends_in_ms=3 * LEASE_MS)
    assert renewed.expires_at_ms > world.clock.now + 2 * LEASE_MS
    assert world.shard().leases == {lease.lease_id: renewed.record}


@pytest.mark.parametrize("change", [{"holder": "billing/9"}, {"connections": 2}], ids=lambda change: str(*change))
def test_an_older_value_with_anything_else_changed_is_not_renewed(world: World, change: dict[str, Any]) -> None:
    """A number of connections or a holder from a request would become the stored one."""
    lease = world.lend()
    world.prolong(lease)
    before = world.picture()
    assert world.renew(replace(lease, **change), ends_in_ms=3 * LEASE_MS) is None
    assert world.picture() == before


def test_a_late_renew_keeps_the_later_end(world: World) -> None:
    """A renew that was overtaken by a newer one would shorten the lease under its holder."""
    lease = world.lend()
    newest = world.prolong(lease, ends_in_ms=3 * LEASE_MS)
    assert world.prolong(lease, ends_in_ms=2 * LEASE_MS) == newest
    assert world.shard().leases == {lease.lease_id: newest.record}


def test_a_released_lease_is_not_renewed(world: World) -> None:
    """A kept connection would be used without a lease."""
    lease = world.lend()
    world.release(lease)
    assert world.renew(lease) is None
    assert world.shard().leases == {}


def test_a_lease_past_its_end_is_not_renewed(world: World) -> None:
    """Its session may be gone, or its slot be granted again at any moment: the holder has to ask anew."""
    lease = world.lend(ends_in_ms=JUST_OVER)
    assert world.renew(lease) is None


def test_a_renew_tells_of_pressure(world: World) -> None:
    """Environments that keep their connection would never hear that others are refused."""
    lease = world.lend()
    calm = world.try_renew(lease)
    assert isinstance(calm, Renewal)
    assert not calm.pressure
    world.lend(connections=2)
    pressed = world.try_renew(calm.lease, ends_in_ms=2 * LEASE_MS)
    assert isinstance(pressed, Renewal)
    assert pressed.pressure


def test_what_a_lowered_budget_overdraws_is_not_renewed(world: World) -> None:
    """Two holders that keep renewing would keep MySQL above its new budget."""
    lease, _ = world.lend(connections=2), world.lend()
    world.operations.set_budget(world.database, 1)
    before = world.picture()
    refusal = world.try_renew(lease, ends_in_ms=2 * LEASE_MS)
    assert isinstance(refusal, Refusal)
    assert (refusal.allowed, refusal.in_use, refusal.remaining) == (1, 3, -2)
    assert world.picture() == before
    assert world.release(lease)


# Several shards


def test_every_shard_is_asked_before_anybody_is_refused(sharded: World) -> None:
    """A worker would be refused while connections lie idle in another shard."""
    outcomes = [sharded.acquire() for _ in range(8)]
    assert sum(isinstance(outcome, Grant) for outcome in outcomes) == 6
    assert all(isinstance(outcome, Refusal) for outcome in outcomes[6:])
    assert [shard.remaining for shard in sharded.shards()] == [0, 0, 0]


def test_totals_of_one_shard_are_scaled_and_marked(sharded: World) -> None:
    """Graphs and workers would take one shard's figures for the database's."""
    grant = sharded.acquire()
    assert isinstance(grant, Grant)
    assert (grant.allowed, grant.in_use, grant.remaining, grant.estimated) == (6, 3, 3, True)


def test_an_expired_lease_in_any_shard_is_found(sharded: World) -> None:
    """A slot would stay lost for those whose id starts at another shard."""
    dead = [sharded.lend_long_ago(ends_in_ms=LONG_OVER) for _ in range(6)]
    alive = [sharded.lend() for _ in range(6)]
    sharded.refuse()
    held = {lease_id for shard in sharded.shards() for lease_id in shard.leases}
    assert held == {lease.lease_id for lease in alive}
    assert held.isdisjoint(lease.lease_id for lease in dead)


def test_no_more_connections_than_a_shard_has_can_be_asked_for(sharded: World) -> None:
    """Such a worker would always be refused, with the whole budget free."""
    sharded.lend(connections=2)
    with pytest.raises(InvalidRequest) as refused:
        sharded.acquire(connections=3)
    assert refused.value.field == "connections"


def test_status_is_exact_over_all_shards(sharded: World) -> None:
    """An operator would act on a guess."""
    leases = [sharded.lend() for _ in range(4)]
    status = sharded.transport.status(sharded.database)
    assert (status["allowed"], status["in_use"], status["remaining"], status["settled"]) == (6, 4, 2, True)
    assert {entry["lease_id"] for entry in status["leases"]} == {lease.lease_id for lease in leases}
    assert sum(shard["in_use"] for shard in status["shards"]) == 4
