"""The governor function's payloads: a lease's life, outages, and the published sample's workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from connection_governor.core.codec import lease_payload
from connection_governor.core.retry import ACQUIRING
from tests.conformance.schemas import SCHEMA, answer, changes_nothing, granted
from tests.support.faulty_store import LOST, LOST_ANSWER, REFUSED, SENT_AGAIN, THROTTLED, TWICE, Fault
from tests.support.worlds import LEASE_MS, SKEW_MS

if TYPE_CHECKING:
    from tests.support.worlds import World

LEASE_ID = "lease-zz"
NOT_NAMES = ["", "a" * 33, "orders#0", 5, True, None, [], {"a": 1}]


# What is answered


def test_a_whole_life_of_a_lease_in_payloads(world: World) -> None:
    """Any language can be a worker, if the payloads are what the contract says."""
    request = {"action": "acquire", "database": "orders", "holder": "checkout/2f1c", "lease_id": LEASE_ID}
    lease = answer(world, request | {"connections": 2, "lease_ms": 10_000})["lease"]
    assert lease == {
        "lease_id": LEASE_ID,
        "database": "orders",
        "holder": "checkout/2f1c",
        "connections": 2,
        "fence": 1,
        "expires_at_ms": world.clock.now + 10_000,
        "shard": 0,
    }
    renewed = answer(world, {"action": "renew", "lease": lease, "lease_ms": 60_000})
    assert renewed == {
        "renewed": True,
        "lease": lease | {"expires_at_ms": world.clock.now + 60_000},
        "pressure": False,
    }
    assert answer(world, {"action": "release", "lease": renewed["lease"]}) == {"released": True}
    assert answer(world, {"action": "release", "lease": lease}) == {"released": False, "reason": "not_held"}
    assert answer(world, {"action": "renew", "lease": renewed["lease"]}) == {"renewed": False, "reason": "not_held"}


@pytest.mark.parametrize("later_ms", [3, 9_000, 11_000], ids=["soon", "later", "past-the-end-it-knows"])
def test_a_renew_by_length_that_is_repeated_later_is_answered_the_end_that_is_stored(
    world: World, later_ms: int
) -> None:
    """Any language's SDK repeats a request after a lost answer: the worker would give up a live lease."""
    lease = granted(world, lease_ms=10_000)
    request = {"action": "renew", "lease": lease, "lease_ms": 20_000}
    first = answer(world, request)
    world.clock.advance(later_ms)
    before = world.picture()
    assert answer(world, request) == first
    assert world.picture() == before


def test_a_renew_by_length_that_is_repeated_after_both_ends_is_not_held(world: World) -> None:
    """Its slot may be granted again at any moment."""
    lease = granted(world, lease_ms=10_000)
    request = {"action": "renew", "lease": lease, "lease_ms": 20_000}
    answer(world, request)
    world.clock.advance(20_001)
    assert answer(world, request) == {"renewed": False, "reason": "not_held"}


def test_an_acquire_names_the_sessions_of_the_leases_that_it_took_over(world: World) -> None:
    """A worker in any language ends what is left of them before it uses its own connection."""
    request = {"action": "acquire", "database": "orders", "connections": 3, "lease_ms": 10_000}
    first = answer(world, request | {"lease_id": LEASE_ID})
    assert "taken_over" not in first
    world.clock.advance(10_000 + SKEW_MS + 1)
    assert answer(world, request)["taken_over"] == [f"governor:{LEASE_ID}:orders#0"]


def test_an_acquire_that_is_repeated_later_is_granted_the_lease_that_is_stored(world: World) -> None:
    """A worker in any language names a length: its SDK repeats the request after a lost answer, the end has moved."""
    request = {"action": "acquire", "database": "orders", "lease_id": LEASE_ID, "lease_ms": 10_000}
    first = answer(world, request)["lease"]
    world.clock.advance(3)
    again = answer(world, request)
    assert again["granted"]
    assert again["lease"] == {**first, "fence": None}
    assert world.shard().in_use == 1


@pytest.mark.parametrize("other", [{"connections": 2}, {"holder": "billing/1"}])
def test_the_id_of_another_lease_is_in_use(world: World, other: dict[str, Any]) -> None:
    """Two workers that share an id would share a connection."""
    request = {"action": "acquire", "database": "orders", "lease_id": LEASE_ID, "lease_ms": 10_000}
    answer(world, request)
    assert answer(world, request | other)["error"]["field"] == "lease_id"
    assert world.shard().in_use == 1


def test_an_acquire_that_is_repeated_after_its_leases_end_is_refused_by_name(world: World) -> None:
    """Granted, it would hold a connection that any caller may take over."""
    request = {"action": "acquire", "database": "orders", "lease_id": LEASE_ID, "connections": 3, "lease_ms": 10_000}
    answer(world, request)
    world.clock.advance(10_001)
    assert answer(world, request)["error"]["field"] == "lease_id"


def test_a_refusal_in_a_payload(world: World) -> None:
    """A worker in another language must be able to tell a full database from an error."""
    granted(world, connections=3)
    refusal = answer(world, {"action": "acquire", "database": "orders"})
    assert refusal.pop("retry_after_ms") >= 20
    assert refusal == {
        "granted": False,
        "reason": "no_connections_left",
        "allowed": 3,
        "in_use": 3,
        "remaining": 0,
        "pressure": True,
    }


def test_a_renew_that_a_lowered_budget_forbids_in_a_payload(world: World) -> None:
    """A worker must be able to tell a lease that stays until its end from one that is gone."""
    lease = granted(world, connections=3)
    world.operations.set_budget("orders", 1)
    outcome = answer(world, {"action": "renew", "lease": lease, "lease_ms": 60_000})
    assert (outcome["renewed"], outcome["reason"], outcome["remaining"]) == (False, "no_connections_left", -2)


def test_status_in_a_payload(world: World) -> None:
    """Operators and scripts read it: its leases must be those that are stored."""
    lease = granted(world)
    status = answer(world, {"action": "status", "database": "orders"})
    assert (status["allowed"], status["in_use"], status["remaining"]) == (3, 1, 2)
    assert status["leases"] == [
        {name: lease[name] for name in ("lease_id", "connections", "expires_at_ms", "shard")} | {"holder": "checkou"}
    ]


def test_what_is_left_out_has_defaults(world: World) -> None:
    """The shortest payload must be a whole request: one connection, the database's length, an id that is made."""
    first = answer(world, {"action": "acquire", "database": "orders"})["lease"]
    second = answer(world, {"action": "acquire", "database": "orders", "lease_id": None, "lease_ms": None})["lease"]
    assert first["lease_id"] != second["lease_id"]
    assert (first["connections"], first["expires_at_ms"]) == (1, world.clock.now + LEASE_MS)
    assert first["holder"]


def test_a_lease_without_its_fence_is_still_a_lease(world: World) -> None:
    """After a lost answer it is null, and a client may leave null fields out."""
    lease = granted(world)
    del lease["fence"]
    assert answer(world, {"action": "release", "lease": lease}) == {"released": True}


def test_fields_that_are_not_known_are_ignored(world: World) -> None:
    """A newer client must be able to talk to an older function."""
    lease = granted(world, colour="blue")
    assert answer(world, {"action": "release", "lease": lease | {"colour": "blue"}}) == {"released": True}


# Outages


@pytest.mark.parametrize("fault", [LOST, THROTTLED, REFUSED], ids=["unreachable", "throttled", "no-right"])
def test_an_outage_is_answered_as_one(world: World, fault: Any) -> None:  # noqa: ANN401
    """A worker must fail closed, and not take an outage for a full or an empty database."""
    lease = granted(world)
    for method, request in [
        ("grant", {"action": "acquire", "database": "orders"}),
        ("renew", {"action": "renew", "lease": lease, "lease_ms": 60_000}),
        ("remove", {"action": "release", "lease": lease}),
        ("settings", {"action": "status", "database": "orders"}),
    ]:
        world.store.plan(method, *[fault] * 20)
        assert answer(world, request)["error"]["code"] == "unavailable"
        world.store.faults.clear()
    assert world.shard().leases.keys() == {lease["lease_id"]}


# The published sample's payload


def sample(world: World, increment: object, name: object = "orders") -> Any:  # noqa: ANN401
    return answer(world, {"incrementCounter": increment, "RDBMSName": name})


def test_the_samples_workers_are_governed_with_their_own_payload(world: World) -> None:
    """Fleets that run on the published sample can change the helper's name, and nothing else."""
    assert [sample(world, True) for _ in range(4)] == [True, True, True, False]
    assert sample(world, False) is True
    assert sample(world, True) is True
    assert sample(world, True) is False


def test_an_anonymous_lease_lasts_a_quarter_of_an_hour_unless_set(world: World) -> None:
    """Lambda's longest invocation: a shorter lease would be taken over from a worker that cannot renew it."""
    sample(world, True)
    (lease,) = world.status().leases()
    assert (lease.expires_at_ms, lease.connections, lease.holder) == (world.clock.now + 900_000, 1, "")
    world.operations.set_budget("orders", 3, anonymous_lease_ms=60_000)
    world.clock.advance(60_000)
    sample(world, True)
    assert {lease.expires_at_ms - world.clock.now for lease in world.status().leases()} == {840_000, 60_000}


def test_the_oldest_anonymous_lease_comes_back_first(world: World) -> None:
    """The one that is most likely meant; whose it is cannot be known."""
    sample(world, True)
    world.clock.advance(10)
    sample(world, True)
    oldest, newest = world.status().leases()
    sample(world, False)
    assert [lease.lease_id for lease in world.status().leases()] == [newest.lease_id]
    assert oldest.lease_id != newest.lease_id


@pytest.mark.parametrize("fault", [LOST_ANSWER, TWICE, SENT_AGAIN], ids=["lost-answer", "sent-twice", "sent-again"])
def test_one_request_releases_one_anonymous_lease_at_most(world: World, fault: Fault) -> None:
    """Two working connections would share one slot: the next acquire that is granted is one too many for MySQL."""
    for _ in range(2):
        sample(world, True)
    world.store.plan("remove", fault)
    assert sample(world, False) is True
    assert len(world.status().leases()) == 1


def test_a_rival_that_releases_the_oldest_leaves_the_next_to_this_request(world: World) -> None:
    """Two workers that end at the same moment give back two leases, though both have seen the same oldest one."""
    for _ in range(2):
        sample(world, True)
        world.clock.advance(10)
    oldest, _ = world.status().leases()
    world.store.before["remove"] = lambda: world.truth.remove(oldest.key, ((oldest.lease_id, oldest.record),))
    world.store.plan("remove", None, THROTTLED)
    assert sample(world, False) is True
    assert world.status().leases() == []


def test_anonymous_workers_never_give_back_a_lease_that_has_a_name(world: World) -> None:
    """A mixed fleet: the sample's repeated `false` would free the connections of governed workers."""
    lease = world.lend(holder="/")
    assert sample(world, False) is False
    assert set(world.shard().leases) == {lease.lease_id}


def test_anonymous_leases_of_the_crashed_come_back_by_themselves(world: World) -> None:
    """The sample's own counter never gave them back."""
    for _ in range(3):
        sample(world, True)
    assert sample(world, True) is False
    world.clock.advance(900_000 + SKEW_MS + 1)
    assert sample(world, True) is True


@pytest.mark.parametrize("increment", [None, 0, 1, "true", "false", [], {}], ids=repr)
def test_a_bad_flag_is_answered_false(world: World, increment: object) -> None:
    """The sample's workers take any answer but `false` for a grant."""
    changes_nothing(world, lambda: _is_false(sample(world, increment)))


@pytest.mark.parametrize("name", [*NOT_NAMES, "nobodys"], ids=repr)
@pytest.mark.parametrize("increment", [True, False])
def test_a_bad_or_unknown_database_is_answered_false(world: World, increment: bool, name: object) -> None:
    """An error object would be taken for a grant, and the database be flooded."""
    changes_nothing(world, lambda: _is_false(sample(world, increment, name)))


def test_the_samples_payload_without_a_database_is_answered_false(world: World) -> None:
    """As for a bad one."""
    _is_false(answer(world, {"incrementCounter": True}))


@pytest.mark.parametrize("increment", [True, False])
@pytest.mark.parametrize("fault", [LOST, THROTTLED, REFUSED], ids=["unreachable", "throttled", "no-right"])
def test_an_outage_is_answered_false(world: World, increment: bool, fault: Any) -> None:  # noqa: ANN401
    """Fail closed, for workers that know no other word."""
    for method in ("settings", "grant", "read", "remove"):
        world.store.plan(method, *[fault] * (ACQUIRING.tries + 20))
    _is_false(sample(world, increment))


def _is_false(given_answer: object) -> None:
    assert given_answer is False


def test_a_lease_as_json_has_the_fields_of_the_contract(world: World) -> None:
    """They are public: a worker in another language reads them by name."""
    lease = lease_payload(world.lend())
    assert list(lease) == ["lease_id", "database", "holder", "connections", "fence", "expires_at_ms", "shard"]


def test_the_schemas_are_schemas() -> None:
    """A schema with an error accepts everything, and its users notice in production."""
    for name in ("request.json", "answer.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads((SCHEMA / name).read_text("utf-8")))
