"""Generated garbage: never a stack trace, never a write, and never another verdict than the schema's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conformance.schemas import REQUEST, answer

if TYPE_CHECKING:
    from tests.support.worlds import World

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


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(request_=GARBAGE)
def test_no_garbage_is_answered_with_a_stack_trace_or_moves_the_counter(world: World, request_: Any) -> None:  # noqa: ANN401
    """Promise 7: any caller with the right to invoke could break the database's budget for all others."""
    before = world.picture()
    given_answer = answer(world, request_)
    world.shards()  # whole, whatever happened
    if isinstance(given_answer, dict) and given_answer.get("granted"):
        assert answer(world, {"action": "release", "lease": given_answer["lease"]}) == {"released": True}
        return
    assert world.picture() == before


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(request_={"action": "acquire", "database": 4503599627370496.0})
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
    """Ask with a value as JSON: JSON Schema accepts 1.0 as an integer; the function, as Python's reader, does not."""
    if isinstance(value, float) and value.is_integer():
        return 0.5  # no integer, and of no other type that the schema allows anywhere
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    return value
