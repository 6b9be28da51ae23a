"""The opening rate over every store: exact numbers of grants, no second write, and changes that double no token."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.client.acquire import LeaseClient, run
from connection_governor.client.aio import AsyncGovernor
from connection_governor.client.governor import Governor
from connection_governor.client.lease_file import NO_LEASE_FILE
from connection_governor.client.ports import Dependencies
from connection_governor.client.request import LeaseRequest
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Refusal, ShardKey, Wanted
from connection_governor.core.opening import Opening
from connection_governor.core.operations import Operations
from connection_governor.core.plan import Change
from connection_governor.core.store import Written
from connection_governor.errors import InvalidRequest, NoConnectionsLeft
from connection_governor.metrics import Reporter
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.conformance.crowd import crowd
from tests.support.faulty_store import LOST_ANSWER, TWICE
from tests.support.virtual import NOW_MS, SetEntropy
from tests.support.worlds import World, local_store, new_table, through_payloads

if TYPE_CHECKING:
    from pathlib import Path

    from connection_governor.aws.client import Endpoint
    from connection_governor.core.store import LeaseStore

KEY = ShardKey("orders", 0)
NOW_US = NOW_MS * 1_000
RATE = 10  # a second: one token each 100 ms
SKEW_MS = 999  # and a millisecond of rounding: ten tokens of the burst are held back
HELD_BACK = 10


@pytest.fixture
def world(empty_store: LeaseStore) -> World:
    """Return a budget of thirty that opens at most ten a second, twenty at once, with a full bucket."""
    return paced(empty_store)


def paced(store: LeaseStore, budget: int = 30, burst: int = 20 + HELD_BACK, **settings: int) -> World:
    world = World(store)
    world.operations.set_budget("orders", budget, opens_per_second=RATE, open_burst=burst, skew_ms=SKEW_MS, **settings)
    world.clock.advance(60_000)
    return world


def granted(world: World, tries: int, *, connections: int = 1) -> int:
    return sum(isinstance(world.acquire(connections=connections), Grant) for _ in range(tries))


def give_all_back(world: World) -> None:
    for lease in world.status().leases():
        assert world.release(lease)


# The numbers


def test_a_full_bucket_grants_its_burst_and_then_the_rate(world: World) -> None:
    """One more would be refused by a database that counts its openings; one fewer is lost speed."""
    assert granted(world, 29) == 20
    give_all_back(world)
    for _ in range(5):
        world.clock.advance(1_000)
        assert granted(world, 29) == RATE
        give_all_back(world)


def test_a_refusal_for_the_rate_says_so_and_when_to_come_back(world: World) -> None:
    """A worker that takes it for a full budget would look for a leak; one that comes back early is refused again."""
    assert granted(world, 20) == 20
    refusal = world.refuse()
    assert refusal.too_fast
    assert refusal.remaining == 10
    assert 100 <= refusal.retry_after_ms < 200
    world.clock.advance(100)
    assert granted(world, 2) == 1


def test_refusals_at_one_moment_are_spread(world: World) -> None:
    """Callers that are all told the same moment come back as a herd."""
    granted(world, 20)
    told = []
    for share in (0.0, 0.5, 0.99):
        world.entropy.share = share
        told.append(world.refuse().retry_after_ms)
    assert told == [100, 150, 199]


def test_a_full_budget_is_no_matter_of_the_rate(empty_store: LeaseStore) -> None:
    """An operator would raise the wrong figure."""
    world = paced(empty_store, budget=5)
    assert granted(world, 6) == 5
    assert not world.refuse().too_fast


def test_a_lease_of_three_connections_takes_three_tokens(world: World) -> None:
    """A pool that opens three connections opens three."""
    assert granted(world, 10, connections=3) == 6
    assert granted(world, 5) == 2


def test_more_connections_than_a_bucket_holds_are_refused_by_name(world: World) -> None:
    """Such a lease would wait forever."""
    with pytest.raises(InvalidRequest, match="connections: must be from 1 to 20"):
        world.engine.acquire(world.wanted(connections=21))


def test_taking_over_an_expired_lease_takes_a_token(world: World) -> None:
    """The holder that takes over opens a connection like any other."""
    assert granted(world, 20) == 20
    world.clock.advance(1_000)
    assert granted(world, 10) == 10
    world.clock.advance(40_000)
    assert granted(world, 30) == 20


def test_renewing_and_releasing_take_no_token(world: World) -> None:
    """Neither opens a connection."""
    lease = world.lend()
    before = world.shard().opens_us
    assert world.release(world.prolong(lease))
    assert world.shard().opens_us == before


@pytest.mark.parametrize("fault", [LOST_ANSWER, TWICE], ids=["lost-answer", "twice"])
def test_a_repeated_acquire_takes_one_token(world: World, fault: object) -> None:
    """A lost answer would cost an opening that another worker waits for."""
    world.lend()
    before = world.shard().opens_us
    assert before is not None
    world.store.plan("grant", fault)  # type: ignore[arg-type]
    world.lend()
    assert world.shard().opens_us == before + 100_000


def test_shards_never_add_up_to_more(empty_store: LeaseStore) -> None:
    """Seven shards that each rounded up would open more than the database takes."""
    world = paced(empty_store, budget=70, burst=50, shards=7)
    assert granted(world, 300) == 35  # 40 tokens make 5 whole ones in each shard
    give_all_back(world)
    seconds = 7
    opened = 0
    for _ in range(seconds * 10):
        world.clock.advance(100)
        opened += granted(world, 20)
        give_all_back(world)
    assert seconds * RATE - 1 <= opened <= seconds * RATE + 7


def test_a_shard_with_less_than_one_a_second_works(empty_store: LeaseStore) -> None:
    """A budget of many shards with a low rate would stand still."""
    world = World(empty_store)
    world.operations.set_budget("orders", 40, shards=4, opens_per_second=1)
    world.clock.advance(60_000)
    granted(world, 30)
    give_all_back(world)
    opened = 0
    for _ in range(40):
        world.clock.advance(1_000)
        opened += granted(world, 6)
        give_all_back(world)
    assert 37 <= opened <= 41


def test_the_published_payload_counts_as_well(world: World) -> None:
    """Workers of the sample would storm the database past everybody else."""
    answers = [world.requests.answer({"incrementCounter": True, "RDBMSName": "orders"}) for _ in range(25)]
    assert answers == [True] * 20 + [False] * 5


# Clocks


def test_a_writer_whose_clock_is_ahead_sees_no_token_early(world: World) -> None:
    """By true time the fleet would open more than the burst."""
    assert granted(world, 29) == 20
    give_all_back(world)
    ahead = world.another_engine(ahead_ms=1_000)
    found = [ahead.acquire(world.wanted()) for _ in range(30)]
    assert sum(isinstance(one, Grant) for one in found) == 10, "twenty and ten are the burst of thirty"


# Callers that wait


def test_waiting_callers_get_a_time_each_with_one_write(world: World) -> None:
    """A herd that polls costs ten writes a grant and finishes late."""
    granted(world, 20)
    world.store.calls.clear()
    waits = []
    for _ in range(5):
        grant = world.engine.acquire(waiting(world, 2_000))
        assert isinstance(grant, Grant)
        waits.append(grant.open_in_ms)
    assert waits == [100, 200, 300, 400, 500]
    assert world.store.methods().count("grant") == 5


def test_a_lease_also_lasts_while_its_holder_waits(world: World) -> None:
    """It would be shorter than asked for when its connection opens."""
    wanted = waiting(world, 2_000)
    grant = world.engine.acquire(wanted)
    assert isinstance(grant, Grant)
    assert grant.lease.expires_at_ms == wanted.expires_at_ms + 2_000


def test_a_caller_whose_time_would_come_too_late_is_refused_at_once(world: World) -> None:
    """Its wait could not succeed: tokens never come back early."""
    granted(world, 20)
    refusal = world.engine.acquire(waiting(world, 99))
    assert isinstance(refusal, Refusal)
    assert refusal.too_fast


def test_the_client_waits_for_its_time_and_then_opens(world: World) -> None:
    """A client that opened at once would break the rate, one that polled would come late."""
    granted(world, 20)
    client = LeaseClient(world.transport, world.clock, world.entropy, Reporter(world.journal), NO_LEASE_FILE)
    request = LeaseRequest("orders", "checkout", 2_000)
    lease = client.acquire(request, lambda: world.clock.now + 30_000)
    assert world.clock.naps == [0.1]
    assert client.release(lease)


def test_the_client_does_so_through_the_function_too(world: World) -> None:
    """The transport must carry the wait there and the time back."""
    granted(world, 20)
    through_payloads(world)
    client = LeaseClient(world.transport, world.clock, world.entropy, Reporter(world.journal), NO_LEASE_FILE)
    client.acquire(LeaseRequest("orders", "checkout", 2_000), lambda: world.clock.now + 30_000)
    assert world.clock.naps == [0.1]


def test_a_client_without_patience_raises_too_fast_and_counts_it_apart(world: World) -> None:
    """`NoConnLeftError` would alarm for a budget that has room."""
    granted(world, 20)
    client = LeaseClient(world.transport, world.clock, world.entropy, Reporter(world.journal), NO_LEASE_FILE)
    world.journal.lines.clear()
    with pytest.raises(NoConnectionsLeft, match="opened too fast") as refused:
        client.acquire(LeaseRequest("orders", "checkout", 50), lambda: world.clock.now + 30_000)
    assert refused.value.too_fast
    assert not client.is_pressed("orders"), "giving up kept connections would only need more openings"
    (line,) = [json.loads(line) for line in world.journal.lines]
    assert line["TooFast"] == 1
    assert "NoConnLeftError" not in line


def test_a_caller_interrupted_while_it_waits_releases_its_lease(world: World) -> None:
    """A cancelled worker would hold a connection that it never opened."""
    granted(world, 20)
    client = LeaseClient(world.transport, world.clock, world.entropy, Reporter(world.journal), NO_LEASE_FILE)
    steps = client.acquiring(LeaseRequest("orders", "checkout", 2_000), lambda: world.clock.now + 30_000)

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(steps, interrupted)
    assert world.status().in_use == 20


def test_a_task_cancelled_while_it_waits_releases_its_lease(world: World) -> None:
    """An asyncio worker that gives up would hold a connection that it never opened."""
    granted(world, 20)
    dependencies = Dependencies(world.clock, world.entropy, Reporter(world.journal))
    governor = AsyncGovernor(Governor(world.transport, dependencies, holder="checkout", database="orders"))

    async def cancelled() -> None:
        task = asyncio.create_task(governor.acquire(timeout=9))
        while world.status().in_use == 20:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(50):  # so that callers are due seconds from now
        world.engine.acquire(waiting(world, 9_000))
    give_back_all_but(world, 20)
    threads: list[threading.Thread] = []
    world.store.before["remove"] = lambda: threads.append(threading.current_thread())
    asyncio.run(cancelled())
    assert world.status().in_use == 20
    assert threads != [threading.main_thread()], "the release would stop the event loop"


def give_back_all_but(world: World, kept: int) -> None:
    for lease in world.status().leases()[kept:]:
        assert world.release(lease)


def waiting(world: World, wait_ms: int) -> Wanted:
    wanted = world.wanted()
    return Wanted(wanted.database, wanted.lease_id, wanted.holder, 1, wanted.expires_at_ms, wait_ms=wait_ms)


# What a grant costs


def test_a_busy_database_needs_one_write_a_grant(world: World) -> None:
    """A second write for each grant would double the price."""
    for _ in range(100):
        world.clock.advance(110)
        world.release(world.lend())
    world.store.calls.clear()
    for _ in range(100):
        world.clock.advance(110)
        world.release(world.lend())
    assert 100 <= world.store.methods().count("grant") <= 106


def test_a_quiet_database_needs_one_write_a_grant_of_an_environment_that_knows_it(world: World) -> None:
    """A worker that comes once a minute finds the bucket full each time."""
    world.lend()
    world.store.calls.clear()
    for _ in range(20):
        world.clock.advance(60_000)
        world.release(world.lend())
    assert world.store.methods().count("grant") == 20


def test_a_database_without_a_rate_stores_and_sends_nothing_of_it(empty_store: LeaseStore) -> None:
    """It would pay for what it does not use."""
    world = World(empty_store)
    world.operations.set_budget("orders", 3)
    world.release(world.lend())
    assert world.shard().opens_us is None
    assert [arguments[5] for method, arguments in world.store.calls if method == "grant"] == [None]
    assert "opens_per_second" not in world.service.status("orders")


# Changes


def test_a_rate_is_turned_on_changed_and_turned_off(empty_store: LeaseStore) -> None:
    """An operator who sets it finds it in the status, and none of it once it is off."""
    world = World(empty_store)
    world.operations.set_budget("orders", 30)
    assert granted(world, 30) == 30
    give_all_back(world)
    world.operations.set_budget("orders", 30, opens_per_second=RATE, open_burst=30, skew_ms=SKEW_MS)
    world.clock.advance(60_000)  # until then an environment may not have heard of it
    assert granted(world, 30) == 20
    give_all_back(world)
    report = world.service.status("orders")
    assert (report["opens_per_second"], report["open_burst"]) == (RATE, 30)
    world.operations.set_budget("orders", 30, opens_per_second=0)
    assert world.shard().opens_us is None
    assert granted(world, 30) == 30


def test_an_environment_with_old_settings_learns_of_a_new_rate_by_its_first_grant(world: World) -> None:
    """For a minute it would open at the former rate."""
    world.lend()
    world.operations.set_budget("orders", 30, opens_per_second=1, open_burst=4)
    world.clock.advance(5_000)
    assert granted(world, 10) == 3, "a burst of four, less one for the clocks"


def test_a_change_of_the_budget_alone_costs_no_token_and_no_refusal(world: World) -> None:
    """An autoscaler that moves the budget each minute would stop all openings each time."""
    assert granted(world, 10) == 10
    world.operations.set_budget("orders", 36)
    assert granted(world, 26) == 10


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_a_new_number_of_shards_doubles_no_token(empty_store: LeaseStore, shards: int) -> None:
    """Tokens spent on a shard that is closed would be granted again on one that stays."""
    world = paced(empty_store, budget=60, burst=40, shards=2)
    granted(world, 40)
    give_all_back(world)
    world.operations.set_budget("orders", 60, shards=shards)
    assert granted(world, 40) == 0
    world.clock.advance(2_001)
    assert granted(world, 40) <= RATE, "a second for the clocks, then the rate"
    give_all_back(world)


def test_a_plan_left_half_done_is_finished_by_the_caller_that_meets_it(world: World) -> None:
    """Openings would stop until the janitor comes."""
    world.store.crash = (1, True)  # the settings are stored, and no shard hears of it
    with pytest.raises(Exception, match="as the test asked"):
        world.operations.set_budget("orders", 30, opens_per_second=5, open_burst=30)
    world.store.crash = None
    world.clock.advance(60_000)
    world.refuse()
    world.clock.advance(5_000)
    assert granted(world, 30) > 10


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("opens_per_second", {"opens_per_second": -1}),
        ("opens_per_second", {"opens_per_second": 10_001}),
        ("open_burst", {"opens_per_second": 100, "open_burst": 101}),
        ("open_burst", {"open_burst": 5}),
    ],
)
def test_a_rate_that_cannot_work_is_refused_by_name_and_changes_nothing(
    empty_store: LeaseStore, field: str, values: dict[str, int]
) -> None:
    """A burst that the clocks' allowance uses up would never grant."""
    world = World(empty_store)
    world.operations.set_budget("orders", 3)
    before = world.picture()
    with pytest.raises(InvalidRequest) as refused:
        world.operations.set_budget("orders", 3, **values)
    assert refused.value.field == field
    assert world.picture() == before


def test_a_budget_that_needs_more_shards_than_the_burst_has_tokens_is_refused(world: World) -> None:
    """Some shards could then never grant."""
    with pytest.raises(InvalidRequest, match="open_burst: must be 38 or more"):
        world.operations.set_budget("orders", 1_000)


# The store's clauses, one by one


SPEND = Opening(full_us=NOW_US, latest_us=NOW_US + 50, cost_us=10, refilled_us=None, first_plan=1, last_plan=2)
REFILL = Opening(full_us=NOW_US, latest_us=0, cost_us=10, refilled_us=NOW_US + 7, first_plan=1, last_plan=2)


@pytest.mark.parametrize(
    ("opens_us", "opening", "after_us"),
    [
        (NOW_US, SPEND, NOW_US + 10),
        (NOW_US + 50, SPEND, NOW_US + 60),
        (NOW_US + 51, SPEND, None),
        (NOW_US - 1, SPEND, None),
        (NOW_US - 1, REFILL, NOW_US + 7),
        (NOW_US, REFILL, None),
        (None, SPEND, None),
        (None, REFILL, None),
    ],
)
def test_a_grant_moves_the_opening_time_only_as_it_allows(
    empty_store: LeaseStore, opens_us: int | None, opening: Opening, after_us: int | None
) -> None:
    """Each bound that fails to hold is a token too many."""
    outcome = grant_on(empty_store, opens_us, opening, plan=1)
    if after_us is None:
        assert not isinstance(outcome, Written)
        assert shard_after(empty_store).opens_us == opens_us
        assert not shard_after(empty_store).leases
    else:
        assert isinstance(outcome, Written)
        assert outcome.opens_us == shard_after(empty_store).opens_us == after_us


@pytest.mark.parametrize("opening", [SPEND, REFILL], ids=["spend", "refill"])
@pytest.mark.parametrize(("plan", "is_granted"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_grant_needs_a_shard_with_its_pace(
    empty_store: LeaseStore, opening: Opening, plan: int, *, is_granted: bool
) -> None:
    """A former pace, or a later one, would add up to another rate with the other shards."""
    opens_us = NOW_US if opening is SPEND else NOW_US - 1
    assert isinstance(grant_on(empty_store, opens_us, opening, plan=plan), Written) is is_granted


@pytest.mark.parametrize(
    ("stored_us", "as_read_us", "after_us"),
    [
        (None, None, NOW_US),
        (NOW_US - 5, NOW_US - 5, NOW_US),
        (NOW_US, NOW_US - 5, NOW_US),
        (NOW_US + 5, NOW_US - 5, None),
    ],
)
def test_a_stamp_moves_the_opening_time_forward_only(
    empty_store: LeaseStore, stored_us: int | None, as_read_us: int | None, after_us: int | None
) -> None:
    """Tokens taken since the shard was read would be granted a second time."""
    empty_store.make_shard(KEY, 1, stored_us)
    assert empty_store.stamp(Change(KEY, 0, 0, NOW_US, as_read_us), 2) is (after_us is not None)
    assert shard_after(empty_store).opens_us == (stored_us if after_us is None else after_us)


def test_a_stamp_without_a_rate_removes_the_opening_time(empty_store: LeaseStore) -> None:
    """A rate that is off costs no byte."""
    empty_store.make_shard(KEY, 1, NOW_US)
    assert empty_store.stamp(Change(KEY, 0, 0, None, NOW_US, unlimited=True), 2)
    assert shard_after(empty_store).opens_us is None


def grant_on(store: LeaseStore, opens_us: int | None, opening: Opening, *, plan: int) -> object:
    store.make_shard(KEY, plan, opens_us)
    assert store.raise_allowed(Change(KEY, 0, 3), plan)
    return store.grant(KEY, "lease-01", "AAAAAAA-0checkout", (), None, opening)


def shard_after(store: LeaseStore):  # type: ignore[no-untyped-def]  # noqa: ANN201 - a shard
    (shard,) = store.read([KEY], consistent=True)
    assert shard is not None
    return shard


# A thousand environments at once, on DynamoDB Local

ENVIRONMENTS = int(os.environ.get("RUSH_ENVIRONMENTS", "1000"))
AT_ONCE = 16  # requests: more are only slower on an emulator
RUSH_SECONDS = float(os.environ.get("RUSH_SECONDS", "3"))
ANSWER_S = 0.2  # by which one answer may come later than another


@pytest.mark.dynamodb_local
@pytest.mark.parametrize(("shards", "tokens", "ahead"), [(1, 39, 100), (4, 36, 100)])
def test_of_a_thousand_environments_at_one_moment_exactly_the_tokens_are_granted(
    endpoint: Endpoint, shards: int, tokens: int, ahead: int
) -> None:
    """One more is a connection that the database refuses; a time given twice is two openings at one moment."""
    world = World(local_store(endpoint))
    world.operations.set_budget(
        "orders", 1_000, shards=shards, opens_per_second=100, open_burst=50, skew_ms=100
    )  # of the 500 ms of burst, 399 are left, and a token costs 10 ms for each shard
    world.clock.advance(60_000)

    def one(number: int) -> Grant | Refusal:
        entropy = SetEntropy(prefix=f"{number:x}-")
        wanted = Wanted("orders", f"{number:08}", "checkout", 1, world.clock.now + 60_000, wait_ms=ahead * 10)
        return Engine(world.truth, world.clock, entropy).acquire(wanted)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(one, range(ENVIRONMENTS)))
    waits = sorted(outcome.open_in_ms for outcome in outcomes if isinstance(outcome, Grant))
    per_shard = (399 + 10 * ahead) // (10 * shards)
    assert len(waits) == shards * per_shard
    assert sum(wait == 0 for wait in waits) == tokens
    if shards == 1:
        assert [second - first for first, second in pairwise(waits[tokens:])] == [10] * (len(waits) - tokens - 1)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert all(refusal.too_fast for refusal in refused)


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("shards", [1, 3])
def test_processes_that_rush_in_real_time_never_get_more_than_burst_and_rate(
    endpoint: Endpoint, dynamodb_local: str, tmp_path: Path, shards: int
) -> None:
    """The whole of it, with real clocks: what the holders themselves saw, against the promise."""
    rate, burst = 10, 20
    table = new_table(endpoint)
    operations = Operations(DynamoDBStore(DynamoDBCaller(endpoint), table), SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget("orders", 200, shards=shards, opens_per_second=rate, open_burst=burst, skew_ms=200)
    time.sleep(burst / rate + 0.5)  # until the bucket is full
    with crowd(
        tmp_path / "journals", dynamodb_local, table, processes=3, threads=8, mode="rush", seconds=RUSH_SECONDS
    ) as people:
        people.go()
        people.finish()
        at_ns = sorted(lease.from_ns for lease in people.held())
    assert len(at_ns) >= 0.8 * (burst + rate * RUSH_SECONDS), "nearly as fast as allowed, or this shows nothing"
    for first, from_ns in enumerate(at_ns):
        for count, until_ns in enumerate(at_ns[first:], start=1):
            assert count <= burst + rate * ((until_ns - from_ns) / 1e9 + ANSWER_S)
