"""What of the engine no world shows by itself: what it remembers, how far it goes, and what it looks after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connection_governor.core.acquisition import RACES_ON_A_SHARD
from connection_governor.core.engine import SETTLE_EACH_MS, Engine
from connection_governor.core.lease import Grant, Refusal, ShardKey
from connection_governor.core.memory import MemoryStore
from connection_governor.core.rules import shard_order
from connection_governor.core.shard_stats import LATELY_MS
from connection_governor.errors import InvalidRequest
from tests.support.faulty_store import LOST, WRITES
from tests.support.worlds import LEASE_MS, SKEW_MS, World


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 3)
    world.engine.settings("orders")
    world.store.calls.clear()
    return world


@pytest.fixture
def sharded() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 6, shards=3)
    world.engine.settings("orders")
    world.store.calls.clear()
    return world


def test_too_many_connections_are_refused_without_a_request(sharded: World) -> None:
    """A request that can never be granted costs writes and other callers' time."""
    with pytest.raises(InvalidRequest):
        sharded.engine.acquire(sharded.wanted(connections=3))
    assert sharded.store.calls == []


def test_a_grant_in_the_first_shard_asks_no_other(sharded: World) -> None:
    """The common case is one request, however many shards there are."""
    assert isinstance(sharded.engine.acquire(sharded.wanted()), Grant)
    assert sharded.store.methods() == ["grant"]


def test_a_full_database_of_three_shards_is_refused_with_one_write_and_one_read(sharded: World) -> None:
    """Three refused writes would cost three write units for nothing."""
    for _ in range(6):
        sharded.lend()
    sharded.store.calls.clear()
    assert isinstance(sharded.engine.acquire(sharded.wanted()), Refusal)
    assert sharded.store.methods() == ["grant", "read"]


def test_races_on_a_shard_are_bounded(world: World) -> None:
    """Where others are always quicker, a worker must hear so, and not hammer."""
    world.lend(connections=3)
    world.clock.advance(LEASE_MS + SKEW_MS + 1)
    world.store.calls.clear()

    def takes_it_first() -> None:
        """Take the slot before each try, always with a lease that has expired by the next read."""
        over = next(iter(world.shard().leases.items()))
        wanted = world.wanted(connections=3, ends_in_ms=-LEASE_MS)
        world.truth.grant(world.shard().key, wanted.lease_id, wanted.record, (over,))
        world.store.before["grant"] = takes_it_first

    world.store.before["grant"] = takes_it_first
    assert isinstance(world.engine.acquire(world.wanted()), Refusal)
    assert world.store.methods().count("grant") == RACES_ON_A_SHARD


def test_two_engines_with_the_same_store_agree(world: World) -> None:
    """Nothing that decides is remembered in a process."""
    other = world.another_engine()
    for engine in (world.engine, other, world.engine):
        assert isinstance(engine.acquire(world.wanted()), Grant)
    for engine in (world.engine, other):
        assert isinstance(engine.acquire(world.wanted()), Refusal)


def test_a_shard_that_knows_a_newer_plan_makes_the_engine_read_its_settings_again(world: World) -> None:
    """A worker would be refused for a minute after its budget was spread over more shards."""
    for _ in range(3):
        world.lend(ends_in_ms=20 * LEASE_MS)
    world.operations.set_budget("orders", 6, shards=2)
    outcomes = [world.engine.acquire(world.wanted()) for _ in range(6)]
    assert sum(isinstance(outcome, Grant) for outcome in outcomes) >= 2
    assert world.engine.known_settings("orders") == world.settings()


def test_a_refusal_by_a_shard_that_is_short_finishes_the_plan_now_and_then(world: World) -> None:
    """Not at each refusal: every refused worker would read every shard, at the worst moment."""
    leases = [world.lend(ends_in_ms=20 * LEASE_MS) for _ in range(3)]
    world.operations.set_budget("orders", 3, shards=3)
    world.clock.advance(60_000)
    world.store.calls.clear()
    world.engine.acquire(world.wanted())
    first = len(world.store.calls)
    assert first > 3, "it looked after the plan"
    world.release(leases[0])
    world.store.calls.clear()
    world.engine.acquire(world.wanted())
    assert len(world.store.calls) <= 4, "it did so a moment ago"
    world.clock.advance(SETTLE_EACH_MS)
    world.store.calls.clear()
    world.engine.acquire(world.wanted())
    assert set(world.store.methods()) & set(WRITES)


def test_a_plan_that_cannot_be_finished_is_no_reason_to_fail(world: World) -> None:
    """A worker may lack the right to make shards: it is refused, and the janitor continues."""
    for _ in range(3):
        world.lend(ends_in_ms=20 * LEASE_MS)
    world.operations.set_budget("orders", 3, shards=3)
    world.clock.advance(60_000)
    world.engine.settings("orders")
    world.store.plan("settings", *[LOST] * 99)
    world.store.plan("stamp", *[LOST] * 99)
    world.store.plan("raise_allowed", *[LOST] * 99)
    assert isinstance(world.engine.acquire(world.wanted()), Refusal)


def test_the_observed_turnover_shortens_the_advice_to_wait(world: World) -> None:
    """Where connections change hands fast, two seconds is a long time to leave one idle."""
    leases = [world.lend(ends_in_ms=600_000) for _ in range(3)]
    first = world.refuse()
    assert first.retry_after_ms == 2_000
    for _ in range(10):
        world.release(leases.pop(0))
        leases.append(world.lend(ends_in_ms=600_000))
    world.clock.advance(1_000)
    assert world.refuse().retry_after_ms == 100


@pytest.mark.parametrize("error_ms", [-1_001, 1_001])
def test_no_expiry_is_written_by_a_clock_that_is_known_to_be_wrong(world: World, error_ms: int) -> None:
    """Others would take the lease over while its holder works, or wait for it for as long as the clock is ahead."""
    lease = world.lend()
    errors = [0]
    engine = Engine(world.store, world.clock, world.entropy, least_skew_ms=60_000, clock_error_ms=lambda: errors[-1])
    assert isinstance(engine.acquire(world.wanted()), Grant)
    errors.append(error_ms)
    stored = world.shard()
    for verb in (lambda: engine.acquire(world.wanted()), lambda: engine.renew(lease, expires_at_ms=world.clock.now)):
        with pytest.raises(InvalidRequest) as refused:
            verb()
        assert refused.value.field == "clock"
    assert world.shard() == stored


def test_a_lease_by_a_clock_that_turns_out_to_be_wrong_is_released(world: World) -> None:
    """The first grant after a freeze would be by the wrong clock, and stay."""
    errors = [5_000, 0]  # the last comes first
    engine = Engine(world.store, world.clock, world.entropy, clock_error_ms=errors.pop)
    with pytest.raises(InvalidRequest):
        engine.acquire(world.wanted())
    assert "grant" in world.store.methods()
    assert world.shard().leases == {}


def test_looks_while_waiting_spread_over_the_shards(world: World) -> None:
    """Looks at shards just seen full find out nothing, and at the end all the others have to be read at once."""
    world.operations.set_budget("orders", 4, shards=4)
    engine = world.another_engine()
    for _ in range(4):
        assert isinstance(engine.acquire(world.wanted()), Grant)
    engine = Engine(world.store, world.clock, world.entropy)
    engine.settings("orders")
    world.store.calls.clear()
    for _ in range(8):
        world.clock.advance(100)
        assert isinstance(engine.acquire(world.wanted(), look_first=True, last=False), Refusal)
    looked = [tuple(arguments[0]) for method, arguments in world.store.calls if method == "read"]
    assert [len(keys) for keys in looked] == [1] * 8
    assert set(looked[:4]) == {(ShardKey("orders", index),) for index in range(4)}
    assert looked[4:] == looked[:4]


def test_a_repeated_look_from_afar_starts_where_the_first_did(world: World) -> None:
    """The function cannot tell a retry from a new call: elsewhere it would not find the lease that it granted."""
    world.operations.set_budget("orders", 4, shards=4)
    engine, wanted = world.another_engine(), world.wanted()
    first = engine.acquire(wanted, look_first=True)
    assert isinstance(first, Grant)
    rival = world.wanted()
    while next(shard_order(rival.lease_id, 4)) != first.lease.shard:
        rival = world.wanted()
    assert isinstance(engine.acquire(rival, look_first=True), Refusal)  # now that shard has been seen full
    again = engine.acquire(wanted, look_first=True)
    assert isinstance(again, Grant)
    assert again.lease == replace(first.lease, fence=None)


@pytest.mark.parametrize("later_ms", [LATELY_MS + 1, -60_000], ids=["later", "clock-set-back"])
def test_shards_seen_full_a_while_ago_are_read_again_at_the_end_of_a_wait(world: World, later_ms: int) -> None:
    """Memory that never ages would refuse callers for as long as the environment lives, with the budget free."""
    world.operations.set_budget("orders", 4, shards=4)
    engine, rival = Engine(world.store, world.clock, world.entropy), world.another_engine()
    long_ms = 20 * LEASE_MS
    held = [rival.acquire(world.wanted(ends_in_ms=long_ms)) for _ in range(4)]
    assert isinstance(engine.acquire(world.wanted(), last=True), Refusal)
    for outcome in held:
        assert isinstance(outcome, Grant)
        rival.release(outcome.lease)
        world.clock.advance(later_ms)
        again = engine.acquire(world.wanted(ends_in_ms=long_ms), look_first=True, last=True)
        assert isinstance(again, Grant)


def test_settings_not_yet_read_are_not_known(world: World) -> None:
    """What only a metric needs must cost no request."""
    assert world.another_engine().known_settings("orders") is None
    assert world.engine.known_settings("orders") == world.settings()


def test_a_worker_may_allow_for_more_difference_between_clocks_but_not_for_less(world: World) -> None:
    """Less than the settings say would take a lease over from a holder whose clock is within the allowance."""
    allowances = [
        Engine(world.store, world.clock, world.entropy, least_skew_ms=least).settings("orders").skew_ms
        for least in (0, SKEW_MS - 1, SKEW_MS + 1)
    ]
    assert allowances == [SKEW_MS, SKEW_MS, SKEW_MS + 1]
