"""The account of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from harness.load_function.load import tally
from harness.load_function.load.outcome import Outcome
from harness.load_function.load.tally import account, details, peak_held, percentiles

if TYPE_CHECKING:
    import pytest

KINDS = st.sampled_from(["granted", "refused", "error", "throttled"])


@given(st.lists(st.builds(Outcome, KINDS)))
def test_every_invocation_is_accounted_for_once(outcomes: list[Outcome]) -> None:
    """The contract: invocations = granted + refused + errors + throttled."""
    report = account(outcomes)
    parts = ("granted", "refused", "errors", "throttled")
    assert report["invocations"] == len(outcomes) == sum(report[part] for part in parts)


def test_what_mysql_refused_is_counted_by_either_number() -> None:
    """1226, the user's own limit, hides nothing that 1040 would have shown."""
    outcomes = [Outcome("error", mysql_error=number) for number in (1040, 1226, 2003)] + [Outcome("error")]
    assert account(outcomes)["mysql_refused_1040"] == 2


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20))))
def test_the_peak_is_the_most_that_were_held_at_one_moment(holds: list[tuple[int, int]]) -> None:
    """The demo's over_grants is this peak above the budget: one too low would hide an over-grant."""
    outcomes = [Outcome("granted", held_from_ms=start, held_to_ms=start + length) for start, length in holds]
    moments = [sum(start <= moment < start + length for start, length in holds) for moment in range(80)]
    assert peak_held(outcomes) == max(moments)


def test_percentiles_are_values_that_were_measured() -> None:
    """p99 of a hundred calls is the 99th, neither invented nor the worst."""
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([3, 1, 2]) == {"p50": 2, "p95": 3, "p99": 3}
    assert percentiles([7]) == {"p50": 7, "p95": 7, "p99": 7}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_details_name_their_columns_once() -> None:
    """An answer has 6 MB: a name for each value would halve the runs that fit."""
    report = details([Outcome("granted", lease_id="k3Zq81Bd")])
    assert dict(zip(report["columns"], report["rows"][0], strict=True))["lease_id"] == "k3Zq81Bd"
    assert report["truncated"] is False


def test_details_that_do_not_fit_are_left_out_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer over Lambda's limit is lost whole, with the account of the run."""
    monkeypatch.setattr(tally, "MAX_DETAILS", 2)
    outcomes = [Outcome("granted")] * 3
    assert (len(details(outcomes)["rows"]), details(outcomes)["truncated"]) == (2, True)
    assert (len(details(outcomes[:2])["rows"]), details(outcomes[:2])["truncated"]) == (2, False)
