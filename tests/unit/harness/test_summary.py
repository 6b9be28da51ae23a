"""What a demo run is judged by: each promise is seen to be broken, and by the workers' and MySQL's word."""

from dataclasses import replace
from typing import Any

import pytest

from harness.recording import Hold, Load, Recording
from harness.summary import broken_promises, most_at_once, summarise

CONTRACT = {
    *("allowed", "invocations", "granted", "refused", "errors", "throttled", "crashed", "over_grants"),
    *("leaked_leases", "peak_in_use", "mysql_peak_connections", "mysql_refused_1040", "acquire_ms", "hold_ms"),
    *("duration_s", "lease_ms", "skew_ms", "seconds_to_full_capacity_after_crash", "without_governor"),
}


def load(holds: list[Hold], *, refused_by_mysql: int = 0, from_ms: int = 0, **counts: int) -> Load:
    zeros = dict.fromkeys(("invocations", "granted", "refused", "errors", "throttled", "crashed"), 0)
    return Load(
        from_ms=from_ms,
        to_ms=from_ms + 10_000,
        counts=zeros | counts,
        error_reasons={},
        acquire_ms=[1.0, 2.0, 3.0],
        holds=holds,
        mysql_refused_ms=[from_ms] * refused_by_mysql,
    )


def recorded(**changed: Any) -> Recording:  # noqa: ANN401 - whichever fields of the recording
    """A run with a budget of 1 in which all went well: three granted, one of them killed, and one refused."""
    holds = [
        Hold(0, 500, 20_000, crashed=False),
        Hold(500, 900, 20_500, crashed=False),
        Hold(900, 950, 20_900, crashed=True),
    ]
    good = Recording(
        allowed=1,
        concurrency=2,
        asked=4,
        skew_ms=1_000,
        governed=load(holds, invocations=4, granted=3, refused=1, crashed=1),
        ungoverned=load([], from_ms=30_000, invocations=4, granted=1, errors=3, refused_by_mysql=3),
        crashed_at_ms=950,
        killed=1,
        full_again_at_ms=21_950,
        leaked=0,
        mysql_sessions=[(0, 1), (31_000, 9)],
        mysql_refused=0,
        lent=[(100, 1)],
        remaining=[(50, 0)],
        refusals=[(100, 1.0)],
        metric_totals={"Granted": 3, "Released": 2, "NoConnLeftError": 1},
    )
    return replace(good, **changed)


def broken(recording: Recording) -> list[str]:
    return broken_promises(summarise(recording), recording)


def test_a_run_that_kept_every_promise_is_said_to_have() -> None:
    """Otherwise `make demo` fails for no reason."""
    assert broken(recorded()) == []


def test_the_summary_has_exactly_the_fields_of_the_contract() -> None:
    """Programs read summary.json by these names."""
    summary = summarise(recorded())
    assert summary.keys() == CONTRACT
    assert summary["without_governor"] == {"invocations": 4, "succeeded": 1, "mysql_refused_1040": 3}
    assert summary["acquire_ms"].keys() == summary["hold_ms"].keys() == {"p50", "p95", "p99"}


def test_over_granting_is_seen_in_the_workers_reports_whatever_the_counter_says() -> None:
    """A wrong counter would otherwise hide the very fault that the demo is to show."""
    overlapping = [
        Hold(0, 500, 20_000, crashed=False),
        Hold(499, 900, 20_500, crashed=False),
        Hold(900, 950, 20_900, crashed=True),
    ]
    run = recorded(governed=load(overlapping, invocations=4, granted=3, refused=1, crashed=1), lent=[(100, 1)])
    assert summarise(run)["over_grants"] == 1
    assert broken(run) == ["over-granted by 1"]


def test_a_hold_that_ends_as_another_starts_does_not_overlap_it() -> None:
    """Handing a slot over is no over-grant."""
    assert most_at_once([Hold(0, 5, None, crashed=False), Hold(5, 9, None, crashed=False)]) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"leaked": 1}, "1 leases leaked"),
        ({"mysql_refused": 2}, "MySQL refused 2 governed connections"),
        ({"mysql_sessions": [(5, 2)]}, "MySQL counted 2 connections, more than the budget"),
        ({"asked": 5}, "5 invocations asked for, 4 made, 4 accounted for"),
        ({"full_again_at_ms": 23_951}, "the full budget came back after 23.0 s, not within 22 s of the crash"),
        ({"full_again_at_ms": None}, "the full budget came back after None s, not within 22 s of the crash"),
        ({"killed": 2}, "the drill killed 2 workers, but 1 died while they held"),
        (
            {"metric_totals": {"Granted": 3, "Released": 2, "NoConnLeftError": 0}},
            "the metric NoConnLeftError sums up to 0, not to 1",
        ),
        (
            {"ungoverned": load([], from_ms=30_000, invocations=4, granted=4)},
            "MySQL refused nobody without the governor: the load would not have needed one",
        ),
    ],
)
def test_what_did_not_hold_is_said(changed: dict[str, Any], said: str) -> None:
    """A demo that passes whatever happens shows nothing."""
    assert broken(recorded(**changed)) == [said]


def test_a_failed_invocation_is_a_broken_promise() -> None:
    """An error hidden among refusals would look like good order."""
    run = recorded(governed=load(recorded().governed.holds, invocations=4, granted=3, errors=1, crashed=1))
    assert "1 invocations failed: {}" in broken(run)


def test_what_mysql_counts_without_the_governor_is_not_held_against_it() -> None:
    """The comparison's sessions come after the governed part, and have no budget."""
    assert summarise(recorded())["mysql_peak_connections"] == 1
