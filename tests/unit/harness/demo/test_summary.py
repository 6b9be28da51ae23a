"""What a demo run is judged by: each promise is seen to be broken, and by the workers' and MySQL's word."""

from dataclasses import replace
from typing import Any

import pytest

from harness.demo.recording import Hold, Recording
from harness.demo.summary import broken_promises, peak_held, summarise
from tests.support.recordings import load, recorded

CONTRACT = {
    *(
        "engine",
        "engine_version",
        "allowed",
        "invocations",
        "granted",
        "refused",
        "errors",
        "throttled",
        "crashed",
        "over_grants",
    ),
    *("leaked_leases", "peak_in_use", "mysql_peak_connections", "mysql_refused_1040", "acquire_ms", "hold_ms"),
    *("duration_s", "lease_ms", "skew_ms", "seconds_to_full_capacity_after_crash", "without_governor"),
}


def broken(recording: Recording) -> list[str]:
    return broken_promises(summarise(recording), recording)


def test_a_run_that_kept_every_promise_reports_it() -> None:
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
    assert peak_held([Hold(0, 5, None, crashed=False), Hold(5, 9, None, crashed=False)]) == 1


@pytest.mark.parametrize(
    ("changed", "report"),
    [
        ({"leaked": 1}, "1 leases leaked"),
        ({"mysql_refused": 2}, "MySQL refused 2 governed connections"),
        ({"mysql_sessions": [(5, 2)]}, "MySQL counted 2 connections, more than the budget"),
        (
            {"governed": replace(recorded().governed, mysql_refused_ms=[7])},
            "MySQL refused 1 governed connections",
        ),
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
            "MySQL refused no worker without the governor: the load would not have needed one",
        ),
    ],
)
def test_a_broken_promise_is_reported(changed: dict[str, Any], report: str) -> None:
    """A demo that passes whatever happens shows nothing."""
    assert broken(recorded(**changed)) == [report]


def test_a_failed_invocation_is_a_broken_promise() -> None:
    """An error hidden among refusals would look like good order."""
    run = recorded(governed=load(recorded().governed.holds, invocations=4, granted=3, errors=1, crashed=1))
    assert "1 invocations failed: {}" in broken(run)


def test_what_mysql_counts_without_the_governor_is_not_held_against_it() -> None:
    """The comparison's sessions come after the governed part, and have no budget."""
    assert summarise(recorded())["mysql_peak_connections"] == 1
    assert summarise(recorded(mysql_sessions=[(29_999, 2), (30_000, 9)]))["mysql_peak_connections"] == 2


def test_what_is_acquired_after_the_load_is_no_peak_of_it() -> None:
    """The drill acquires the whole budget to see whether it is there: that is not what the load used."""
    after = recorded().governed.to_ms + 1
    run = recorded(allowed=5, lent=[(100, 1), (after, 5)], remaining=[(50, 3), (after, 0)])
    assert summarise(run)["peak_in_use"] == 2
