"""The governor function's payloads: what is answered, what is refused by name, and that bad input writes nothing."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connection_governor.remote import lease_payload
from connection_governor.retry import TAKING
from tests.conformance.worlds import LEASE_MS, SKEW_MS
from tests.faulty_store import LOST, REFUSED, THROTTLED, WRITES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.worlds import World

SCHEMA = Path(__file__).parents[2] / "docs" / "schema"
REQUEST = jsonschema.Draft202012Validator(json.loads((SCHEMA / "request.json").read_text("utf-8")))
ANSWER = json.loads((SCHEMA / "answer.json").read_text("utf-8"))

OTHER = "billing"
LEASE_ID = "lease-zz"
HUGE = 10**40
NOT_WHOLE_NUMBERS = ["1", 1.0, 1.5, True, False, None, [], {}, [1], float("nan"), float("inf")]
NOT_NAMES = ["", " ", "a" * 33, "or ders", "orders#0", "orders\n", "größe", "a/b", 5, True, None, [], {"a": 1}]


@cache
def answers_to(action: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**ANSWER, "anyOf": [{"$ref": f"#/$defs/{action}"}]})


def answer(world: World, request: object) -> Any:  # noqa: ANN401 - JSON
    """The answer, after a journey through JSON, and held to the schema of its action."""
    given_answer = json.loads(json.dumps(world.requests.answer(request)))
    action = str(request.get("action")) if isinstance(request, dict) else ""
    if isinstance(request, dict) and "incrementCounter" in request:
        action = "reference"
    elif isinstance(given_answer, dict) and "error" in given_answer:
        action = "error"
    answers_to(action).validate(given_answer)
    return given_answer


def granted(world: World, **fields: object) -> dict[str, Any]:
    """The lease of an acquire that must be granted."""
    request = {"action": "acquire", "database": world.database, "holder": "checkout/2f1c", **fields}
    given_answer = answer(world, request)
    assert given_answer["granted"], given_answer
    lease: dict[str, Any] = given_answer["lease"]
    return lease


def changes_nothing(world: World, act: Callable[[], object]) -> None:
    """Whether what is stored is the same before and after, and no write was even tried."""
    before = world.picture(world.database, OTHER)
    world.store.calls.clear()
    act()
    assert world.picture(world.database, OTHER) == before
    assert not set(world.store.methods()) & set(WRITES)


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
    """After a lost answer it is null, and a client may leave out what is null."""
    lease = granted(world)
    del lease["fence"]
    assert answer(world, {"action": "release", "lease": lease}) == {"released": True}


def test_fields_that_are_not_known_are_ignored(world: World) -> None:
    """A newer client must be able to talk to an older function."""
    lease = granted(world, colour="blue")
    assert answer(world, {"action": "release", "lease": lease | {"colour": "blue"}}) == {"released": True}


# Bad input


@pytest.mark.parametrize("request_", [None, [], "acquire", 5, True, 1.5, [{"action": "acquire"}]], ids=repr)
def test_what_is_no_object_is_refused(world: World, request_: object) -> None:
    """A test event typed by hand must be answered with words, not with a stack trace."""

    def act() -> None:
        assert answer(world, request_)["error"]["field"] == "request"

    changes_nothing(world, act)


@pytest.mark.parametrize("action", ["", "Acquire", "delete", "answer", "__init__", 5, None, [], {}, True], ids=repr)
def test_an_unknown_action_is_refused(world: World, action: object) -> None:
    """A mistyped release would leave its connection lent, and nobody be told."""

    def act() -> None:
        error = answer(world, {"action": action, "database": "orders"})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "action")

    changes_nothing(world, act)


def test_no_action_at_all_is_refused(world: World) -> None:
    """The same for a field that was forgotten."""
    assert answer(world, {"database": "orders"})["error"]["field"] == "action"


@pytest.mark.parametrize("action", ["acquire", "status", "renew", "release"])
def test_an_unknown_database_has_a_code_of_its_own(world: World, action: str) -> None:
    """Its cure is another one than a mended payload: a budget has to be set."""
    world.operations.set_budget(OTHER, 1)
    lease = granted(world) | {"database": "nobodys"}

    def act() -> None:
        given_answer = answer(world, {"action": action, "database": "nobodys", "lease": lease})
        if action == "release":
            assert given_answer == {"released": False, "reason": "not_held"}
        else:
            assert given_answer["error"]["code"] == "unknown_database"
            assert "nobodys" in given_answer["error"]["message"]

    if action == "release":  # asked of the store, which has no such item: a conditional write that cannot succeed
        act()
    else:
        changes_nothing(world, act)
    assert world.settings("nobodys") is None


@pytest.mark.parametrize("name", NOT_NAMES, ids=repr)
def test_a_database_name_out_of_bounds_is_refused_by_name(world: World, name: object) -> None:
    """`orders#0` is a shard's key: taken for a database, its item would be overwritten."""

    def act() -> None:
        for action in ("acquire", "status"):
            error = answer(world, {"action": action, "database": name})["error"]
            assert (error["code"], error["field"]) == ("invalid_request", "database")

    changes_nothing(world, act)


@pytest.mark.parametrize("count", [0, -1, 4, HUGE, -HUGE, *NOT_WHOLE_NUMBERS], ids=repr)
def test_a_number_of_connections_out_of_bounds_is_refused_by_name(world: World, count: object) -> None:
    """A negative number would add to the counter: a budget without end."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": "orders", "connections": count})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "connections")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    "holder", ["", "a" * 65, "line\nbreak", "nul\0", "tab\t", "\ud800", 5, True, [], {}], ids=ascii
)
def test_a_holder_out_of_bounds_is_refused_by_name(world: World, holder: object) -> None:
    """It goes to the log: a line break in it would forge lines there; an empty one is taken for anonymous."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": "orders", "holder": holder})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "holder")

    changes_nothing(world, act)


@pytest.mark.parametrize("holder", ["größe/1", "日本語の関数", "/", "//", "a b", "x" * 64, "🙂", "-", "é"], ids=ascii)
def test_an_odd_holder_is_stored_as_a_tag_of_at_most_seven_plain_bytes(world: World, holder: str) -> None:
    """A tag of more bytes would push the shard over 1 KB, and each write would cost double."""
    lease = granted(world, holder=holder)
    (entry,) = answer(world, {"action": "status", "database": "orders"})["leases"]
    assert 1 <= len(entry["holder"].encode()) <= 7
    assert lease["holder"] == holder
    assert answer(world, {"action": "release", "lease": lease}) == {"released": True}


@pytest.mark.parametrize(
    "lease_id", ["", "short", "a" * 17, "has space", "has.dots", "lease-é1", 12345678, True, [], {}]
)
def test_a_lease_id_out_of_bounds_is_refused_by_name(world: World, lease_id: object) -> None:
    """A dot in it would be taken for a path inside the item."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": "orders", "lease_id": lease_id})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "lease_id")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    "length", [0, -1, 999, 3_600_001, HUGE, *[x for x in NOT_WHOLE_NUMBERS if x is not None]], ids=repr
)
@pytest.mark.parametrize("action", ["acquire", "renew"])
def test_a_length_out_of_bounds_is_refused_by_name(world: World, action: str, length: object) -> None:
    """A lease for ever is a connection lost for ever."""
    lease = granted(world)

    def act() -> None:
        error = answer(world, {"action": action, "database": "orders", "lease": lease, "lease_ms": length})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "lease_ms")

    changes_nothing(world, act)


@pytest.mark.parametrize("ahead_ms", [-60_001, 3_660_001, HUGE, -HUGE])
def test_an_end_far_from_now_is_refused_by_name(world: World, ahead_ms: int) -> None:
    """It comes from the caller's clock: one that is a day ahead would hold its connection for a day."""

    def act() -> None:
        request = {"action": "acquire", "database": "orders", "expires_at_ms": world.clock.now + ahead_ms}
        assert answer(world, request)["error"]["field"] == "expires_at_ms"

    changes_nothing(world, act)


@pytest.mark.parametrize("waiting", [0, 1, "true", [], {}])
def test_waiting_is_true_or_false(world: World, waiting: object) -> None:
    """A string taken for true would hide refusals from the metric."""

    def act() -> None:
        request = {"action": "acquire", "database": "orders", "waiting": waiting}
        assert answer(world, request)["error"]["field"] == "waiting"

    changes_nothing(world, act)


@pytest.mark.parametrize("lease", [None, [], "lease-01", 5, True, {}], ids=repr)
@pytest.mark.parametrize("action", ["renew", "release"])
def test_what_is_no_lease_is_refused_by_name(world: World, action: str, lease: object) -> None:
    """A worker that sends the whole answer in place of the lease must be told so."""

    def act() -> None:
        error = answer(world, {"action": action, "lease": lease})["error"]
        assert error["code"] == "invalid_request"
        assert error["field"].startswith("lease")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lease_id", "short"),
        ("database", "or ders"),
        ("holder", ""),
        ("connections", 0),
        ("connections", True),
        ("fence", "1"),
        ("fence", -1),
        ("expires_at_ms", -1),
        ("expires_at_ms", 64**7),
        ("expires_at_ms", 1.5),
        ("shard", -1),
        ("shard", 4_096),
        ("shard", "0"),
    ],
)
@pytest.mark.parametrize("action", ["renew", "release"])
def test_a_lease_with_one_odd_field_is_refused_by_its_name(
    world: World, action: str, field: str, value: object
) -> None:
    """A lease that went through a lossy language must not come near the store."""
    lease = granted(world) | {field: value}

    def act() -> None:
        error = answer(world, {"action": action, "lease": lease})["error"]
        assert error["code"] == "invalid_request"
        assert error["field"].rpartition(".")[2] == field

    changes_nothing(world, act)


@pytest.mark.parametrize("field", ["lease_id", "database", "holder", "connections", "expires_at_ms", "shard"])
def test_a_lease_with_a_field_missing_is_refused_by_its_name(world: World, field: str) -> None:
    """The whole lease is needed: what is compared is the exact stored string."""
    lease = granted(world)
    del lease[field]

    def act() -> None:
        assert answer(world, {"action": "release", "lease": lease})["error"]["field"] == f"lease.{field}"

    changes_nothing(world, act)


# Generated garbage

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NEARLY = {
    "action": st.sampled_from(["acquire", "renew", "release", "status"]),
    "database": st.just("orders"),
    "connections": st.integers(-2, 5),
    "holder": st.text(max_size=70),
    "lease_id": st.text("abcXYZ019_-", min_size=6, max_size=18),
    "lease_ms": st.integers(0, 4_000_000),
    "RDBMSName": st.just("orders"),
    "incrementCounter": st.booleans(),
}
LEASE_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "lease_id": NEARLY["lease_id"] | JSON,
        "database": NEARLY["database"] | JSON,
        "holder": NEARLY["holder"] | JSON,
        "connections": NEARLY["connections"] | JSON,
        "fence": st.integers() | JSON,
        "expires_at_ms": st.integers() | JSON,
        "shard": st.integers(-1, 5_000) | JSON,
    },
)
GARBAGE = JSON | st.fixed_dictionaries(
    {},
    optional={
        **{name: value | JSON for name, value in NEARLY.items() if name != "incrementCounter"},
        "incrementCounter": JSON.filter(lambda value: not isinstance(value, bool)),
        "lease": LEASE_LIKE | JSON,
        "waiting": st.booleans() | JSON,
        "expires_at_ms": st.integers() | JSON,
    },
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(request_=GARBAGE)
def test_no_garbage_is_answered_with_a_stack_trace_or_moves_the_counter(world: World, request_: Any) -> None:  # noqa: ANN401
    """Promise 7: any caller with the right to invoke could otherwise break the database's budget for everybody."""
    before = world.picture()
    given_answer = answer(world, request_)
    world.shards()  # whole, whatever happened
    if isinstance(given_answer, dict) and given_answer.get("granted"):
        assert answer(world, {"action": "release", "lease": given_answer["lease"]}) == {"released": True}
        return
    assert world.picture() == before


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_=GARBAGE)
def test_what_the_schema_forbids_is_refused_and_what_it_allows_is_not(world: World, request_: Any) -> None:  # noqa: ANN401
    """People write clients from the schema: it must not promise what the function refuses, or the other way round."""
    given_answer = answer(world, request_)
    if isinstance(given_answer, bool):
        return
    allowed = REQUEST.is_valid(_as_json(request_))
    error = given_answer.get("error", {})
    if error.get("code") != "invalid_request":
        assert allowed
    elif allowed:  # bounds that only the function knows
        assert error["field"] in ("connections", "expires_at_ms", "holder", "lease_id")
    if given_answer.get("granted"):
        answer(world, {"action": "release", "lease": given_answer["lease"]})


def _as_json(value: Any) -> Any:  # noqa: ANN401
    """JSON Schema takes 1.0 for an integer; the function, as Python's reader, does not: ask with what it refuses."""
    if isinstance(value, float) and value.is_integer():
        return value + 0.5 if abs(value) < 2**52 else "float"
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    return value


# Outages


@pytest.mark.parametrize("fault", [LOST, THROTTLED, REFUSED], ids=["unreachable", "throttled", "no-right"])
def test_an_outage_is_answered_as_one(world: World, fault: Any) -> None:  # noqa: ANN401
    """A worker must fail closed, and not take an outage for a full or an empty database."""
    lease = granted(world)
    for method, request in [
        ("grant", {"action": "acquire", "database": "orders"}),
        ("renew", {"action": "renew", "lease": lease, "lease_ms": 60_000}),
        ("give_back", {"action": "release", "lease": lease}),
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
    for method in ("settings", "grant", "read", "give_back"):
        world.store.plan(method, *[fault] * (TAKING.tries + 20))
    _is_false(sample(world, increment))


def _is_false(given_answer: object) -> None:
    assert given_answer is False


def test_a_lease_as_json_has_the_fields_of_the_contract(world: World) -> None:
    """They are public: a worker in another language reads them by name."""
    lease = lease_payload(world.lend())
    assert list(lease) == ["lease_id", "database", "holder", "connections", "fence", "expires_at_ms", "shard"]


def test_the_schemas_are_schemas() -> None:
    """A schema with a slip in it accepts everything, and whoever relies on it notices in production."""
    for name in ("request.json", "answer.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads((SCHEMA / name).read_text("utf-8")))
