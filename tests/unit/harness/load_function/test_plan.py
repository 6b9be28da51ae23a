"""What a run of the harness asks for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load_function.load.plan import PROFILES, BadInputError, Plan, read_plan

Event = dict[str, Any]


def _plan(**event: object) -> Plan:
    return read_plan(event, any_seed=1)


@pytest.mark.parametrize("iterations", [1000, "1000"])
def test_the_published_samples_input_is_read(iterations: object) -> None:
    """Operators paste the sample's test event into the console."""
    plan = _plan(iterations=iterations, operation="load")
    assert (plan.iterations, plan.concurrency, plan.hold_ms, plan.crash_rate) == (1000, 50, (1000, 3000), 0.0)


def test_unit_makes_exactly_one_invocation() -> None:
    """The published sample made none."""
    assert len(_plan(iterations=1000, operation="unit").events()) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("operation", "storm"),
        ("iterations", 0),
        ("iterations", True),
        ("iterations", 1.5),
        ("iterations", "many"),
        ("concurrency", -1),
        ("concurrency", 501),
        ("profile", "square"),
        ("hold_ms", [3, 1]),
        ("hold_ms", [1, 2, 3]),
        ("hold_ms", "long"),
        ("crash_rate", 1.1),
        ("crash_rate", "half"),
        ("crash_rate", float("nan")),
        ("timeout_ms", -1),
        ("seed", -1),
        ("governed", "yes"),
        ("details", 1),
    ],
)
def test_bad_input_names_its_field(field: str, value: object) -> None:
    """A typing error must not become a thousand invocations of something else."""
    with pytest.raises(BadInputError) as caught:
        _plan(**{field: value})
    assert caught.value.field == field


def test_the_same_seed_draws_the_same_load() -> None:
    """A governed run and the one without a governor are compared on the same load."""
    first, again = (_plan(iterations=50, seed=7, crash_rate=0.2).events() for _ in range(2))
    other = _plan(iterations=50, seed=8, crash_rate=0.2).events()
    assert first == again != other


@given(st.integers(1, 300), st.floats(0, 1))
def test_exactly_the_asked_share_is_to_crash(iterations: int, rate: float) -> None:
    """A drill with by chance no victim would prove nothing."""
    victims = sum(event["crash"] for event in _plan(iterations=iterations, crash_rate=rate, seed=3).events())
    assert victims == round(iterations * rate)


@given(st.sampled_from(PROFILES), st.integers(1, 200), st.integers(1, 60))
def test_no_profile_passes_the_concurrency_or_stalls(profile: str, iterations: int, concurrency: int) -> None:
    """More in flight than asked would break the demo's claim; a profile that never starts would hang the function."""
    plan = _plan(iterations=iterations, concurrency=concurrency, profile=profile)
    for index in range(iterations):
        assert plan.may_start(index, 0)
        assert not plan.may_start(index, plan.concurrency)


def test_a_ramp_grows_over_its_first_half() -> None:
    """The picture shows the refusals begin as the load passes the budget."""
    plan = _plan(iterations=100, concurrency=11, profile="ramp")
    reached = [max(n + 1 for n in range(11) if plan.may_start(index, n)) for index in (0, 10, 25, 50, 99)]
    assert reached == [1, 3, 6, 11, 11]


def test_a_burst_starts_each_wave_together() -> None:
    """A burst is the thundering herd: all at once, when the last herd has gone."""
    plan = _plan(iterations=30, concurrency=10, profile="burst")
    assert [index for index in range(30) if not plan.may_start(index, 1)] == [0, 10, 20]
