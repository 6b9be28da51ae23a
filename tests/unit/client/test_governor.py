"""What a worker uses, in virtual time: waiting, deadlines, and a lease that is always released."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from connection_governor import (
    Fence,
    Governor,
    GovernorUnavailable,
    InvalidRequest,
    Lease,
    LeaseLost,
    NoConnectionsLeft,
    UnknownDatabase,
)
from connection_governor.client.ports import Dependencies
from connection_governor.core.memory import MemoryStore
from connection_governor.core.status import DatabaseStatus, LeaseStatus, ShardStatus
from connection_governor.metrics import Reporter
from tests.support.calm_sessions import CalmOpener, CalmSession
from tests.support.faulty_store import LOST, LOST_ANSWER, WRITES
from tests.support.worlds import World, through_payloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.mysql.opener import Opener

FENCE = Fence()


class Context:
    """As much of the Lambda context as is used."""

    def __init__(self, left_ms: int) -> None:
        self.left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms


class Mysql(CalmOpener):
    """Sessions in memory; `refuses` is raised in place of the next."""

    refuses: Exception | None = None

    def new_session(self, *arguments: Any) -> Any:  # noqa: ANN401 - as the opener
        session = super().new_session(*arguments)
        session.refuses = self.refuses
        return session


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 3)
    world.store.calls.clear()
    return world


@pytest.fixture
def mysql(world: World) -> Mysql:
    return Mysql(world.clock)


@pytest.fixture
def make(world: World, mysql: Mysql) -> Callable[..., Governor]:
    def make(*, holder: str = "checkout/2f1c", **options: Any) -> Governor:  # noqa: ANN401 - as `Governor`
        dependencies = Dependencies(
            clock=world.clock,
            entropy=world.entropy,
            reporter=Reporter(world.journal),
            make_opener=lambda: cast("Opener", mysql),
            operations=lambda: world.operations,
        )
        return Governor(world.transport, dependencies, holder=holder, database="orders", **options)

    return make


@pytest.fixture
def governor(make: Callable[..., Governor]) -> Governor:
    return make()


def metric(world: World, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in world.journal.lines]
    return [line for line in lines if name in line]


# Acquire


def test_a_lease_has_what_was_asked_for(world: World, governor: Governor) -> None:
    """All but the name is optional, and the defaults are the contract's."""
    lease = governor.acquire("orders")
    assert (lease.connections, lease.holder, lease.expires_at_ms) == (1, "checkout/2f1c", world.clock.now + 30_000)
    lease = governor.acquire("orders", connections=2, lease_ms=5_000, holder="other/1")
    assert (lease.connections, lease.holder, lease.expires_at_ms) == (2, "other/1", world.clock.now + 5_000)


def test_one_try_is_the_default(world: World, governor: Governor) -> None:
    """A worker that did not ask to wait is answered at once, and the answer says when to try again."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft) as refused:
        governor.acquire()
    assert (refused.value.allowed, refused.value.in_use) == (3, 3)
    assert refused.value.retry_after_ms >= 20
    assert world.clock.naps == []


def test_one_try_repeats_a_request_whose_answer_was_lost(world: World, governor: Governor) -> None:
    """The slot would be lost for the whole lease: no caller knows of it or releases it."""
    world.store.plan("grant", LOST_ANSWER)
    lease = governor.acquire()
    assert world.store.methods().count("grant") == 2
    assert governor.release(lease)
    assert world.shard().in_use == 0


def test_a_clock_set_back_prolongs_no_remembered_refusal(world: World, governor: Governor) -> None:
    """An environment would go on refusing for as long as its clock was set back."""
    held = world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft) as refused:
        governor.acquire()
    world.clock.set_back(3_600_000)
    world.release(held)
    world.clock.advance(refused.value.retry_after_ms)
    assert governor.acquire().connections == 1


def test_a_wrong_clock_shows_in_a_metric(world: World, governor: Governor) -> None:
    """Workers fail, and no metric says that their clock is the cause: the operator looks for an outage."""
    lease = governor.acquire()
    assert metric(world, "WrongClock") == []
    world.engine._clock_error_ms = lambda: 5_000
    verbs: list[Callable[[], object]] = [governor.acquire, lambda: governor.renew(lease)]
    for verb in verbs:
        with pytest.raises(InvalidRequest) as refused:
            verb()
        assert refused.value.field == "clock"
    lines = metric(world, "WrongClock")
    assert [line["WrongClock"] for line in lines] == [1, 1]
    assert all("ahead of DynamoDB's" in line["reason"] for line in lines)
    world.engine._clock_error_ms = lambda: 0
    with pytest.raises(InvalidRequest):
        governor.acquire(connections=99)
    assert len(metric(world, "WrongClock")) == 2, "other bad input is no wrong clock"


def test_a_refusal_is_pressure_for_a_minute_and_no_longer(world: World, governor: Governor) -> None:
    """Without it what is kept idle stays away from callers that were refused; for ever, nothing is ever kept again."""
    world.lend(connections=3)
    assert not governor.lease_client.is_pressed("orders")
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()
    assert governor.lease_client.is_pressed("orders")
    world.clock.advance(60_000 - 1)
    assert governor.lease_client.is_pressed("orders")
    world.clock.advance(1)
    assert not governor.lease_client.is_pressed("orders")


def test_a_clock_set_back_prolongs_no_pressure(world: World, governor: Governor) -> None:
    """An environment would keep no connection for as long as its clock was set back."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()
    assert governor.lease_client.is_pressed("orders")
    world.clock.set_back(3_600_000)
    world.clock.advance(60_000)
    assert not governor.lease_client.is_pressed("orders")


def test_a_waiting_caller_gets_the_connection_that_comes_back(world: World, governor: Governor) -> None:
    """Waiting must end with the connection, and not only with the time-out."""
    held = world.lend(connections=3)
    world.clock.meanwhile = [lambda: None, lambda: world.release(held)]
    assert governor.acquire(timeout=10.0).connections == 1


def test_a_waiting_caller_is_refused_when_the_time_is_up_and_not_before(world: World, governor: Governor) -> None:
    """The callers behind this worker rely on its time-out."""
    world.lend(connections=3)
    start = world.clock.now
    with pytest.raises(NoConnectionsLeft):
        governor.acquire(timeout=2.0)
    assert world.clock.now == start + 2_000


def test_what_comes_back_at_the_last_moment_is_still_had(world: World, governor: Governor) -> None:
    """The last try comes when the time is up: without it the last pause is for nothing."""
    held = world.lend(connections=3)
    world.entropy.share = 0.999
    world.clock.meanwhile = [lambda: world.clock.now == start + 1_000 and world.release(held)] * 50
    start = world.clock.now
    governor.acquire(timeout=1.0)
    assert world.clock.now == start + 1_000


def test_each_try_asks_anew_with_a_new_id_and_a_new_end(world: World, governor: Governor) -> None:
    """A lease that was asked for ten seconds ago would be ten seconds shorter."""
    held = world.lend(connections=3)
    world.clock.meanwhile = [lambda: None, lambda: None, lambda: world.release(held)]
    world.store.calls.clear()
    lease = governor.acquire(timeout=10.0)
    assert lease.expires_at_ms == world.clock.now + 30_000
    first, *_, last = [arguments[1] for method, arguments in world.store.calls if method == "grant"]
    assert first != last == lease.lease_id


def test_a_call_that_ended_refused_counts_one_error_however_often_it_tried(world: World, governor: Governor) -> None:
    """`NoConnLeftError` counts calls: its alarm would go off ten times too early."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft):
        governor.acquire(timeout=3.0)
    assert world.store.methods().count("grant") + world.store.methods().count("read") > 3
    (line,) = metric(world, "NoConnLeftError")
    assert (line["NoConnLeftError"], line["holder"], line["Remaining Connections"]) == (1, "checkout/2f1c", 0)
    assert line["AcquireLatency"] == 3_000


def test_a_wait_that_ended_well_counts_no_error(world: World, governor: Governor) -> None:
    """A metric counts refusals that did not happen."""
    held = world.lend(connections=3)
    world.clock.meanwhile = [lambda: world.release(held)]
    governor.acquire(timeout=3.0)
    assert metric(world, "NoConnLeftError") == []


def test_a_refusal_is_remembered_for_its_retry_after(world: World, governor: Governor) -> None:
    """An environment in a retry loop would spend a write unit on each round."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft) as first:
        governor.acquire()
    world.store.calls.clear()
    world.clock.advance(first.value.retry_after_ms - 1)
    with pytest.raises(NoConnectionsLeft) as second:
        governor.acquire()
    assert world.store.calls == []
    assert second.value.retry_after_ms == 1
    world.clock.advance(1)
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()
    assert world.store.methods() == ["grant"]


def test_a_refusal_of_many_refuses_no_few(world: World, governor: Governor) -> None:
    """A caller that wants one connection is refused because another wanted three."""
    world.lend(connections=1)
    with pytest.raises(NoConnectionsLeft):
        governor.acquire(connections=3)
    assert governor.acquire(connections=2).connections == 2


def test_a_release_of_this_environment_ends_its_memory_of_the_refusal(world: World, governor: Governor) -> None:
    """It knows better than its memory."""
    lease = governor.acquire(connections=3)
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()
    governor.release(lease)
    governor.acquire()


def test_an_unknown_database_is_refused_at_once(governor: Governor) -> None:
    """Waiting does not bring it about."""
    with pytest.raises(UnknownDatabase):
        governor.acquire("nobodys", timeout=10.0)


def test_without_a_name_and_a_default_the_database_is_missing(world: World, make: Callable[..., Governor]) -> None:
    """The variable was forgotten; the error does not say which one to set."""
    nameless = make()
    nameless._database = None
    for call in (nameless.acquire, nameless.status):
        with pytest.raises(InvalidRequest, match="GOVERNOR_DATABASE") as refused:
            call()
        assert refused.value.field == "database"


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("connections", {"connections": 0}),
        ("connections", {"connections": True}),
        ("connections", {"connections": 4}),
        ("timeout", {"timeout": -1}),
        ("lease_ms", {"lease_ms": 10}),
        ("lease_ms", {"lease_ms": 0}),
        ("holder", {"holder": ""}),
        ("database", {"database": "a b"}),
    ],
)
def test_bad_input_is_refused_by_name_and_nothing_is_written(
    world: World, governor: Governor, field: str, options: dict[str, Any]
) -> None:
    """Promise 7, from the worker's side."""
    with pytest.raises(InvalidRequest) as refused:
        governor.acquire(**options)
    assert refused.value.field == field
    assert not set(world.store.methods()) & set(WRITES)


# Deadlines


def test_with_a_context_the_lease_outlasts_the_invocation_by_the_fences_margin(
    world: World, governor: Governor
) -> None:
    """Lambda stops the worker at its deadline; its session is gone by deadline + E + W, and the lease not before."""
    lease = governor.acquire(context=Context(20_000))
    assert lease.expires_at_ms == world.clock.now + 20_000 + FENCE.margin_ms
    assert FENCE.margin_ms == FENCE.statement_bound_ms + FENCE.idle_ms


def test_a_length_of_its_own_goes_before_the_context(world: World, governor: Governor) -> None:
    """Who says how long knows better."""
    assert governor.acquire(lease_ms=5_000, context=Context(20_000)).expires_at_ms == world.clock.now + 5_000


def test_the_wait_ends_a_reserve_before_the_deadline(world: World, governor: Governor) -> None:
    """Lambda would stop the worker before its handler has answered: a time-out instead of a full database."""
    world.lend(connections=3)
    start = world.clock.now
    with pytest.raises(NoConnectionsLeft):
        governor.acquire(timeout=60.0, context=Context(1_500))
    assert world.clock.now == start + 1_500 - 250 - 100


@pytest.mark.parametrize("left_ms", [0, 50, 250])
def test_nothing_is_acquired_within_the_reserve(world: World, governor: Governor, left_ms: int) -> None:
    """The handler would get a lease that it has no time to use, and no time to release."""
    world.store.calls.clear()
    with pytest.raises(NoConnectionsLeft, match="no time left"):
        governor.acquire(timeout=2.0, context=Context(left_ms))
    assert world.store.calls == []
    assert isinstance(governor.acquire(context=Context(251)), Lease)


@pytest.mark.parametrize("on_unavailable", ["raise", "open"])
def test_a_refusal_stays_one_where_the_time_runs_out(
    world: World, make: Callable[..., Governor], mysql: Mysql, on_unavailable: str
) -> None:
    """A full budget would be reported as an outage, and with `open` the worker connect without a lease."""
    world.lend(connections=3)
    world.store.plan("read", *[LOST] * 9)
    world.store.before["read"] = lambda: world.clock.advance(2_000)
    governor = make(on_unavailable=on_unavailable)
    with pytest.raises(NoConnectionsLeft) as refused, governor.connection(timeout=60.0, context=Context(2_000)):
        pytest.fail("nothing may be opened")
    assert (refused.value.allowed, refused.value.in_use) == (3, 3)
    assert mysql.opened == []
    assert world.store.methods()[-1] == "read"


def test_an_outage_while_time_is_left_stays_one(world: World, governor: Governor) -> None:
    """An outage would be reported as a full budget, and the alarm be the wrong one."""
    world.lend(connections=3)
    world.store.plan("read", *[LOST] * 9)
    with pytest.raises(GovernorUnavailable):
        governor.acquire(timeout=60.0, context=Context(5_000))


def test_a_lease_that_has_expired_when_its_answer_comes_is_not_handed_out(world: World, governor: Governor) -> None:
    """Frozen before the answer, a worker would continue under a lease that others may take over at any moment."""
    world.store.before["grant"] = lambda: world.clock.advance(40_000)
    with pytest.raises(GovernorUnavailable, match="after the lease's expiry"), governor.lease(timeout=0):
        pass
    assert world.shard().in_use == 0


def test_a_caller_with_time_left_tries_again_with_a_new_lease(world: World, governor: Governor) -> None:
    """A slow answer to a short lease is no reason to give up waiting."""
    world.store.before["grant"] = lambda: world.clock.advance(1_500)
    lease = governor.acquire(timeout=5.0, lease_ms=1_000)
    assert lease.expires_at_ms == world.clock.now + 1_000
    assert list(world.shard().leases) == [lease.lease_id]


def test_a_refusal_after_a_wait_tells_the_budget_as_it_is(world: World, governor: Governor) -> None:
    """A shard that is both remembered and looked at again is one shard: the dashboard showed twice the budget."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft) as refused:
        governor.acquire(timeout=2.0)
    assert (refused.value.allowed, refused.value.in_use) == (3, 3)
    (line,) = metric(world, "NoConnLeftError")
    assert (line["AllowedConnections"], line["ConnectionsInUse"]) == (3, 3)


def test_leases_taken_over_by_an_acquire_are_counted(world: World, governor: Governor) -> None:
    """Under load it is acquires that reclaim, not the janitor: crashes would not show when it matters."""
    world.lend(connections=2)
    world.lend(connections=1)
    world.clock.advance(100_000)
    governor.acquire()
    (line,) = metric(world, "LeasesExpired")
    assert (line["LeasesExpired"], line["Granted"]) == (2, 1)


# Renew and release


def test_a_renewed_lease_ends_later(world: World, governor: Governor) -> None:
    """And with a context it covers the new deadline."""
    lease = governor.acquire()
    world.clock.advance(10_000)
    lease = governor.renew(lease)
    assert lease.expires_at_ms == world.clock.now + 30_000
    lease = governor.renew(lease, context=Context(60_000))
    assert lease.expires_at_ms == world.clock.now + 60_000 + FENCE.margin_ms
    assert governor.release(lease)


def test_a_lease_that_is_gone_is_lost(world: World, governor: Governor) -> None:
    """A worker continues on a connection that another worker's lease covers."""
    lease = governor.acquire()
    governor.release(lease)
    with pytest.raises(LeaseLost):
        governor.renew(lease)
    late = governor.acquire()
    world.clock.advance(30_001)
    with pytest.raises(LeaseLost):
        governor.renew(late)


def test_a_renew_against_a_lowered_budget_is_refused_and_the_lease_stays(world: World, governor: Governor) -> None:
    """The holder may finish what its lease still covers."""
    lease = governor.acquire(connections=3)
    world.operations.set_budget("orders", 1)
    with pytest.raises(NoConnectionsLeft):
        governor.renew(lease, lease_ms=60_000)
    assert governor.release(lease)


def test_a_release_says_whether_there_was_anything_to_release(governor: Governor) -> None:
    """Repeating it does nothing more."""
    lease = governor.acquire()
    assert governor.release(lease)
    assert not governor.release(lease)


def test_an_outage_at_release_is_raised_if_the_caller_releases_by_hand(world: World, governor: Governor) -> None:
    """It may want to try again later."""
    lease = governor.acquire()
    world.store.plan("remove", *[LOST] * 50)
    with pytest.raises(GovernorUnavailable):
        governor.release(lease)


# A lease for a body


def test_the_body_has_a_lease_and_gives_it_back(world: World, governor: Governor) -> None:
    """Two lines are all that a worker with another driver needs."""
    with governor.lease("orders", connections=2) as lease:
        assert world.shard().leases == {lease.lease_id: lease.record}
    assert world.shard().remaining == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_body_that_raises_gives_its_lease_back(world: World, governor: Governor, error: type[BaseException]) -> None:
    """Each bug in a worker would cost a connection until its lease ends."""
    with pytest.raises(error), governor.lease():
        raise error
    assert world.shard().remaining == 3


def test_a_lease_renewed_in_the_body_is_released_as_renewed(world: World, governor: Governor) -> None:
    """The context manager knows only the lease that it acquired."""
    with governor.lease() as lease:
        world.clock.advance(1_000)
        governor.renew(lease)
    assert world.shard().remaining == 3


def test_an_outage_at_the_end_hides_neither_result_nor_error(world: World, governor: Governor) -> None:
    """The work is done: an error because the lease could not be released would repeat it."""
    with governor.lease():
        world.store.plan("remove", *[LOST] * 50)
    with pytest.raises(ValueError, match="the real one"), governor.lease():  # noqa: PT012 - the body is the point
        world.store.plan("remove", *[LOST] * 50)
        raise ValueError("the real one")
    left = [json.loads(line) for line in world.journal.lines if "lease left to expire" in line]
    assert len(left) == 2
    assert left[0]["lease_id"]


def test_threads_share_one_governor(world: World, governor: Governor) -> None:
    """A worker with a thread pool would mix up its leases."""
    seen: list[int] = []

    def work() -> None:
        for _ in range(50):
            with governor.lease(timeout=60.0) as lease:
                seen.append(lease.connections)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 150
    assert world.shard().remaining == 3


# A session for a body


def test_the_body_has_a_session_and_a_lease_that_end_together(world: World, governor: Governor, mysql: Mysql) -> None:
    """The session closes before the lease goes back: the other way round MySQL counts one too many."""
    with governor.connection("orders", context=Context(10_000)) as connection:
        assert connection.lease is not None
        assert world.shard().in_use == 1
        assert mysql.opened[0].name == connection.lease.session_name
        assert mysql.opened[0].usable_until_ms == world.clock.now + 10_000
        world.store.before["remove"] = lambda: mysql.opened[0].log.append("released")
    assert mysql.opened[0].log[-2:] == ["close", "released"]
    assert world.shard().remaining == 3


def test_without_a_context_statements_stop_earlier(world: World, governor: Governor, mysql: Mysql) -> None:
    """Such code may be frozen at any moment: W alone is not enough."""
    with governor.connection(lease_ms=60_000):
        assert mysql.opened[0].usable_until_ms == world.clock.now + 60_000 - FENCE.guard_ms


def test_a_lease_too_short_for_the_fence_is_refused_before_it_is_asked_for(world: World, governor: Governor) -> None:
    """No statement could ever start under it."""
    with pytest.raises(InvalidRequest) as refused, governor.connection(lease_ms=FENCE.guard_ms):
        pass
    assert refused.value.field == "lease_ms"
    assert world.store.calls == []


def test_a_length_that_leaves_no_time_before_the_fence_is_refused_with_a_context_too(
    world: World, governor: Governor
) -> None:
    """Every statement would be refused as too late, and the worker look for the mistake in its time-outs."""
    context = Context(20_000)
    with (
        pytest.raises(InvalidRequest) as refused,
        governor.connection(lease_ms=FENCE.margin_ms, context=context),
    ):
        pass
    assert refused.value.field == "lease_ms"
    assert world.store.calls == []
    with governor.connection(lease_ms=FENCE.margin_ms + 1, context=context):
        pass


def test_where_mysql_refuses_the_lease_goes_back_and_the_real_error_surfaces(
    world: World, governor: Governor, mysql: Mysql
) -> None:
    """MySQL is down, and the governor must not make it look like its own fault, nor keep what it lent."""
    mysql.refuses = ConnectionRefusedError("MySQL refused")
    with pytest.raises(ConnectionRefusedError, match="MySQL refused"), governor.connection():
        pass
    assert world.shard().remaining == 3


def test_where_mysql_refuses_and_the_governor_is_away_the_real_error_surfaces(
    world: World, governor: Governor, mysql: Mysql
) -> None:
    """Both fail at once in a network outage: the first cause is what helps."""
    mysql.refuses = ConnectionRefusedError("MySQL refused")
    world.store.plan("remove", *[LOST] * 50)
    with pytest.raises(ConnectionRefusedError), governor.connection():
        pass


@pytest.mark.parametrize("error", [ValueError, LeaseLost, KeyboardInterrupt])
def test_a_body_that_raises_closes_and_releases(
    world: World, governor: Governor, mysql: Mysql, error: type[BaseException]
) -> None:
    """In every case the lease is released."""
    with pytest.raises(error), governor.connection():
        raise error
    assert not mysql.opened[0].open
    assert world.shard().remaining == 3


def test_a_session_that_may_live_on_keeps_its_lease(world: World, governor: Governor) -> None:
    """MySQL may still be at work for it: its slot comes back when the lease ends, and no earlier."""
    with governor.connection() as connection:
        cast("CalmSession", connection).may_linger = True
    assert world.shard().in_use == 1
    (written,) = metric(world, "message")
    assert connection.lease is not None
    assert written == {
        "message": "lease left to expire",
        "lease_id": connection.lease.lease_id,
        "database": "orders",
        "holder": "checkout/2f1c",
        "expires_at_ms": connection.lease.expires_at_ms,
        "reason": "the database may still be at work for its session",
    }


def test_a_metric_that_fails_keeps_no_lease(world: World, mysql: Mysql, make: Callable[..., Governor]) -> None:
    """In every case the lease is released."""

    def broken(_line: str) -> None:
        raise RuntimeError("no log")

    world.service._reporter = Reporter(broken)
    with make().connection() as connection:
        assert connection.lease is not None
    assert world.shard().remaining == 3


def test_without_a_database_of_ours_only_leases_can_be_had(world: World) -> None:
    """Such a worker needs no `DB_…` variable; a call for a connection names the missing one."""
    bare = Governor(world.transport, Dependencies(world.clock, world.entropy, Reporter(world.journal)), holder="a/1")
    with bare.lease("orders"):
        pass
    with pytest.raises(InvalidRequest) as refused, bare.connection("orders"):
        pass
    assert refused.value.field == "DB_HOST"
    assert world.shard().remaining == 3


def test_the_driver_is_loaded_before_the_lease_is_acquired(world: World, mysql: Mysql) -> None:
    """A cold environment loads psycopg in up to a second: other workers would be refused that slot meanwhile."""
    free: list[int] = []

    def make_opener() -> Opener:
        free.append(world.shard().remaining)
        return cast("Opener", mysql)

    dependencies = Dependencies(world.clock, world.entropy, Reporter(world.journal), make_opener=make_opener)
    with Governor(world.transport, dependencies, holder="a/1").connection("orders"):
        assert (free, world.shard().remaining) == ([3], 2)


# The failure policy


def test_an_outage_closes_by_default(world: World, governor: Governor, mysql: Mysql) -> None:
    """Fail closed: an outage of the governor must not flood the database."""
    world.store.plan("grant", *[LOST] * 50)
    with pytest.raises(GovernorUnavailable), governor.connection():
        pass
    assert mysql.opened == []


def test_a_worker_that_chose_so_connects_without_a_lease_and_reports_it(
    world: World, make: Callable[..., Governor], mysql: Mysql
) -> None:
    """In a metric and a log line: an operator must see that the budget does not hold now."""
    world.store.plan("grant", *[LOST] * 50)
    with make(on_unavailable="open").connection() as connection:
        assert connection.lease is None
        assert mysql.opened[0].name == "governor:none"
        assert mysql.opened[0].usable_until_ms is None
    (line,) = metric(world, "UngovernedConnections")
    assert (line["UngovernedConnections"], line["holder"]) == (1, "checkout/2f1c")
    assert not mysql.opened[0].open


def test_a_full_database_is_no_outage(world: World, make: Callable[..., Governor], mysql: Mysql) -> None:
    """`open` is for outages: going round a refusal would be to have no governor at all."""
    world.lend(connections=3)
    with pytest.raises(NoConnectionsLeft), make(on_unavailable="open").connection(timeout=0):
        pass
    assert mysql.opened == []


# Status and budgets


def test_status_and_budget_in_the_shape_of_the_contract(governor: Governor) -> None:
    """Scripts read it."""
    lease = governor.acquire()
    assert governor.set_budget("orders", 5)["allowed"] == 5
    status = governor.status("orders")
    assert (status["database"], status["allowed"], status["in_use"], status["remaining"]) == ("orders", 5, 1, 4)
    assert [entry["lease_id"] for entry in status["leases"]] == [lease.lease_id]
    assert governor.status() == status


@pytest.mark.parametrize("through", [lambda world: world, through_payloads], ids=["direct", "lambda"])
def test_a_status_has_attributes_and_its_json_form_over_both_transports(
    through: Callable[[World], World], make: Callable[..., Governor], world: World
) -> None:
    """Programs read typed values, scripts JSON: a difference would mislead one of the two."""
    through(world)
    governor = make()
    lease = governor.acquire(connections=2)
    status = governor.status()
    assert (status.database, status.allowed, status.in_use, status.remaining) == ("orders", 3, 2, 1)
    assert (status.plan, status.settled) == (1, True)
    assert status.leases == (LeaseStatus(lease.lease_id, "checkou", 2, lease.expires_at_ms, 0),)
    assert status.shards == (ShardStatus(0, 3, 2, 1, 1, 1),)
    assert status.json == {name: status[name] for name in status.json}
    assert json.loads(json.dumps(status.json))["leases"][0]["lease_id"] == lease.lease_id
    assert governor.set_budget("orders", 5).remaining == 3


def test_a_field_that_a_newer_function_adds_is_in_the_json_form(world: World) -> None:
    """A function is deployed before its workers: their `status` must not fail on a name that they do not know."""
    report = dict(world.transport.status("orders"))
    report["shards"] = [{**shard, "newer": 1} for shard in report["shards"]]
    status = DatabaseStatus.of({**report, "newer": 2})
    assert (status["newer"], status.json["shards"][0]["newer"], status.allowed) == (2, 1, 3)


def test_a_budget_needs_the_table(world: World) -> None:
    """A worker of the `lambda` transport may have no access to it: the error must name what is missing."""
    bare = Governor(world.transport, Dependencies(world.clock, world.entropy, Reporter(world.journal)), holder="a/1")
    with pytest.raises(InvalidRequest) as refused:
        bare.set_budget("orders", 5)
    assert refused.value.field == "GOVERNOR_TABLE"


@pytest.mark.parametrize("holder", ["", "x" * 65, "line\nbreak"])
def test_an_odd_holder_is_refused_when_the_governor_is_made(make: Callable[..., Governor], holder: str) -> None:
    """And not at the first call at night."""
    with pytest.raises(InvalidRequest):
        make(holder=holder)
