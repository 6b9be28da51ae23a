"""The `lambda` transport over the function's own payloads, with an Invoke that loses, fails and talks nonsense."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.client.remote import RemoteGovernor
from connection_governor.core import rules
from connection_governor.core.deadline import Deadline
from connection_governor.core.lease import Grant, Refusal, Renewal, ShardKey
from connection_governor.core.memory import MemoryStore
from connection_governor.core.retry import ACQUIRING, RELEASING
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, InvalidRequest, UnknownDatabase
from tests.support.faulty_store import LOST
from tests.support.virtual import VirtualClock
from tests.support.worlds import LEASE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable

NOTHING: dict[str, Any] = {}


class Invoked:
    """The function, reached through JSON.

    Attributes:
        payloads: what was sent, exactly.
        outages: the fates of the next calls, in order: lost before, or lost after it ran.
        answer: in place of the function's own, if set.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.payloads: list[bytes] = []
        self.outages: list[str] = []
        self.answer: tuple[bytes, str | None] | None = None

    def __call__(self, payload: bytes, _deadline: Deadline | None = None) -> tuple[bytes, str | None]:
        self.payloads.append(payload)
        outage = self.outages.pop(0) if self.outages else ""
        if outage == "lost":
            raise GovernorUnavailable("lost")
        found = json.dumps(self._world.requests.answer(json.loads(payload))).encode()
        if outage == "answer lost":
            raise GovernorUnavailable("answer lost")
        return self.answer or (found, None)


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 3)
    return world


@pytest.fixture
def invoked(world: World) -> Invoked:
    return Invoked(world)


@pytest.fixture
def remote(world: World, invoked: Invoked) -> RemoteGovernor:
    return RemoteGovernor(invoked, world.clock, world.entropy)


def test_the_verbs_are_those_of_the_direct_transport(world: World, remote: RemoteGovernor) -> None:
    """A worker changes its transport by one variable, and nothing else."""
    wanted = world.wanted(connections=2)
    grant = remote.acquire(wanted)
    assert isinstance(grant, Grant)
    assert grant.lease == wanted.granted_by(world.shard().key, 1)
    assert (grant.allowed, grant.in_use, grant.remaining, grant.estimated) == (3, 2, 1, False)
    refusal = remote.acquire(world.wanted(connections=2))
    assert isinstance(refusal, Refusal)
    assert (refusal.allowed, refusal.in_use, refusal.remaining) == (3, 2, 1)
    renewal = remote.renew(grant.lease, expires_at_ms=world.clock.now + 2 * LEASE_MS)
    assert isinstance(renewal, Renewal)
    assert renewal.lease.expires_at_ms == world.clock.now + 2 * LEASE_MS
    assert remote.status("orders")["in_use"] == 2
    assert remote.release(renewal.lease)
    assert not remote.release(renewal.lease)
    assert remote.renew(renewal.lease, expires_at_ms=world.clock.now + LEASE_MS) is None


def test_an_overdrawn_budget_comes_back_as_a_refusal(world: World, remote: RemoteGovernor) -> None:
    """Taken for a lost lease, it would end work that may continue."""
    lease = world.lend(connections=3)
    world.operations.set_budget("orders", 1)
    assert isinstance(remote.renew(lease, expires_at_ms=world.clock.now + 2 * LEASE_MS), Refusal)


@pytest.mark.parametrize("outage", ["lost", "answer lost"])
def test_a_lost_invocation_is_repeated_exactly(
    world: World, remote: RemoteGovernor, invoked: Invoked, outage: str
) -> None:
    """A repeated acquire with another end, or another id, is a second connection."""
    invoked.outages = [outage] * (ACQUIRING.tries - 1)
    grant = remote.acquire(world.wanted())
    assert isinstance(grant, Grant)
    assert len(invoked.payloads) == ACQUIRING.tries
    repeated = [{**json.loads(payload), "now_ms": 0} for payload in invoked.payloads]
    assert repeated == repeated[:1] * ACQUIRING.tries
    assert world.shard().in_use == 1


@pytest.mark.parametrize(("verb", "tries"), [("acquire", ACQUIRING.tries), ("release", RELEASING.tries)])
def test_tries_are_bounded(world: World, remote: RemoteGovernor, invoked: Invoked, verb: str, tries: int) -> None:
    """A function that is gone would hang every worker."""
    lease = world.lend()
    verbs: dict[str, Callable[[], object]] = {
        "acquire": lambda: remote.acquire(world.wanted()),
        "release": lambda: remote.release(lease),
    }
    invoked.outages = ["lost"] * 50
    with pytest.raises(GovernorUnavailable):
        verbs[verb]()
    assert len(invoked.payloads) == tries


def test_no_try_starts_after_the_deadline(world: World, remote: RemoteGovernor, invoked: Invoked) -> None:
    """The lease would be for an invocation that has ended."""
    invoked.outages = ["lost"] * 50
    with pytest.raises(GovernorUnavailable):
        remote.acquire(world.wanted(), deadline=Deadline.after(0, world.clock))
    assert len(invoked.payloads) == 1


@pytest.mark.parametrize("off_ms", [-30_000, 30_000, -2_001, 2_001])
@pytest.mark.parametrize("verb", ["acquire", "renew"])
def test_the_function_believes_no_clock_that_is_wrong(world: World, invoked: Invoked, verb: str, off_ms: int) -> None:
    """A worker whose clock is behind would be taken over while it works: the budget would be over-granted."""
    lease = world.lend()
    wrong = VirtualClock(world.clock.now + off_ms)
    remote = RemoteGovernor(invoked, wrong, world.entropy)
    stored = world.shard()
    wanted = replace(world.wanted(), expires_at_ms=wrong.now + LEASE_MS)
    with pytest.raises(InvalidRequest) as refused:
        remote.acquire(wanted) if verb == "acquire" else remote.renew(lease, expires_at_ms=wrong.now + 2 * LEASE_MS)
    assert refused.value.field == "now_ms"
    assert "clock" in refused.value.message
    assert world.shard() == stored
    assert len(invoked.payloads) == 1


@pytest.mark.parametrize("off_ms", [-2_000, 0, 2_000])
def test_a_clock_within_the_allowance_and_a_second_is_believed(world: World, invoked: Invoked, off_ms: int) -> None:
    """Workers would be refused for differences that the leases allow for."""
    near = VirtualClock(world.clock.now + off_ms)
    wanted = replace(world.wanted(), expires_at_ms=near.now + LEASE_MS)
    assert isinstance(RemoteGovernor(invoked, near, world.entropy).acquire(wanted), Grant)


def test_a_request_that_was_held_up_is_not_taken_for_a_wrong_clock(world: World, invoked: Invoked) -> None:
    """The first request to a cold function would fail, and with it the invocation."""
    late = VirtualClock(world.clock.now)
    waits = [5_000]

    def cold(payload: bytes, _deadline: Deadline | None = None) -> tuple[bytes, str | None]:
        for clock in (late, world.clock):
            clock.advance(sum(waits))
        waits.clear()
        return invoked(payload)

    assert isinstance(RemoteGovernor(cold, late, world.entropy).acquire(world.wanted()), Grant)
    assert len(invoked.payloads) == 2


def test_an_expiry_in_the_past_is_refused_by_name(world: World, remote: RemoteGovernor) -> None:
    """A lease that any caller may take over at once protects no connection."""
    with pytest.raises(InvalidRequest) as refused:
        remote.acquire(world.wanted(ends_in_ms=-1_001))
    assert refused.value.field == "expires_at_ms"
    assert world.shard().leases == {}


@pytest.mark.parametrize(("last", "outcome"), [(True, Grant), (False, Refusal)])
def test_only_the_last_try_of_a_wait_visits_every_shard(
    world: World, remote: RemoteGovernor, last: bool, outcome: type
) -> None:
    """A worker would be refused at the end of its wait although a shard that it did not visit has room."""
    world.operations.set_budget("orders", 3, shards=3)
    wanted = world.wanted()
    order = [ShardKey("orders", index) for index in rules.shard_order(wanted.lease_id, 3)]
    for key in order[:2]:
        world.truth.grant(key, f"other-{key.index}", wanted.record)
    assert isinstance(remote.acquire(wanted, waiting=True, last=last), outcome)


@pytest.mark.parametrize("waiting", [None, True, False])
def test_whether_it_waits_goes_along(
    world: World, remote: RemoteGovernor, invoked: Invoked, waiting: bool | None
) -> None:
    """The function would count each of its tries as a refusal of its own."""
    remote.acquire(world.wanted(), waiting=waiting)
    assert json.loads(invoked.payloads[0]).get("waiting") == waiting


def test_a_function_that_failed_is_an_outage(world: World, remote: RemoteGovernor, invoked: Invoked) -> None:
    """A time-out of the function, or an error in it: its payload is not an answer."""
    invoked.answer = (b'{"errorMessage":"Task timed out"}', "Unhandled")
    with pytest.raises(GovernorUnavailable, match="Unhandled"):
        remote.status("orders")


@pytest.mark.parametrize(
    "answer", [b"", b"null", b"true", b"[]", b'"ok"', b"<html>", b"{}", b'{"statusCode":200}', b"\xff"], ids=repr
)
@pytest.mark.parametrize("verb", ["acquire", "renew", "release", "status"])
def test_another_function_than_the_governor_is_an_outage_and_no_stack_trace(
    world: World, remote: RemoteGovernor, invoked: Invoked, verb: str, answer: bytes
) -> None:
    """GOVERNOR_FUNCTION with a wrong name must be said, once, in words."""
    lease = world.lend()
    invoked.answer = (answer, None)
    verbs: dict[str, Callable[[], object]] = {
        "acquire": lambda: remote.acquire(world.wanted()),
        "renew": lambda: remote.renew(lease, expires_at_ms=world.clock.now + LEASE_MS),
        "release": lambda: remote.release(lease),
        "status": lambda: remote.status("orders"),
    }
    with pytest.raises(GovernorUnavailable):
        verbs[verb]()
    assert len(invoked.payloads) == 1


def test_a_newer_function_may_say_more(world: World, remote: RemoteGovernor, invoked: Invoked) -> None:
    """The function is updated before its workers: they must continue."""
    wanted = world.wanted()
    grant = {
        "granted": True,
        "lease": {
            "lease_id": wanted.lease_id,
            "database": "orders",
            "holder": "checkout/2f1c",
            "connections": 1,
            "fence": 1,
            "expires_at_ms": wanted.expires_at_ms,
            "shard": 0,
            "colour": "blue",
        },
        "allowed": 3,
        "in_use": 1,
        "remaining": 2,
        "estimated": False,
        "pressure": False,
        "weather": "fine",
    }
    invoked.answer = (json.dumps(grant).encode(), None)
    assert isinstance(remote.acquire(wanted), Grant)


def test_the_functions_errors_are_raised_as_what_they_are(world: World, remote: RemoteGovernor) -> None:
    """Bad input must not look like an outage, nor an outage like a full database."""
    with pytest.raises(InvalidRequest) as refused:
        remote.acquire(world.wanted(connections=4))
    assert refused.value.field == "connections"
    with pytest.raises(UnknownDatabase) as unknown:
        remote.acquire(world.wanted("nobodys"))
    assert unknown.value.database == "nobodys"
    world.store.plan("grant", *[LOST] * 99)
    with pytest.raises(GovernorUnavailable):
        remote.acquire(world.wanted())


def test_what_the_function_has_retried_is_not_retried_again(
    world: World, remote: RemoteGovernor, invoked: Invoked
) -> None:
    """In an outage of DynamoDB each worker would make sixteen requests where four are meant."""
    world.store.plan("grant", *[LOST] * 99)
    with pytest.raises(GovernorUnavailable):
        remote.acquire(world.wanted())
    assert len(invoked.payloads) == 1
    assert world.store.methods().count("grant") == ACQUIRING.tries
