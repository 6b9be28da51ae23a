"""The figures of a run as a reader wants them: grouped, in words, each with its verdict. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.demo.summary import bound_s, label

if TYPE_CHECKING:
    from collections.abc import Mapping

Verdict = Literal["good", "bad", "plain"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    name: str
    value: str
    verdict: Verdict = "plain"


@dataclass(frozen=True, slots=True)
class Group:
    """Figures under a heading."""

    heading: str
    rows: tuple[Row, ...]


def groups(summary: Mapping[str, Any]) -> tuple[Group, ...]:
    """Return all figures of `summary.json`."""
    return (_promised(summary), _accounted(summary), _times(summary), _without(summary))


def headline(summary: Mapping[str, Any], concurrency: int) -> tuple[str, str]:
    """Return what the run shows, in two sentences."""
    without = summary["without_governor"]
    engine = label(summary)
    connections = "connection" if summary["allowed"] == 1 else "connections"
    version = f" {summary['engine_version']}" if summary["engine_version"] else ""
    title = f"{concurrency} Lambda workers at a time share {summary['allowed']} {connections} of {engine}{version}"
    return title, (
        f"Governed: {summary['granted']} of {summary['invocations']} served, {summary['refused']} refused with "
        f"a time to retry, {summary['mysql_refused_1040']} refused by {engine}. "
        f"Without the governor: {without['succeeded']} served, {without['mysql_refused_1040']} refused by {engine}."
    )


def _promised(summary: Mapping[str, Any]) -> Group:
    return Group(
        "What is promised",
        (
            _must_be_zero("over-granted", summary["over_grants"]),
            _must_be_zero("leases leaked", summary["leaked_leases"]),
            _must_be_zero(f"refused by {label(summary)}", summary["mysql_refused_1040"]),
            _within(f"{label(summary)}'s highest count", summary["mysql_peak_connections"], summary["allowed"], ""),
            _within("full after the crash", summary["seconds_to_full_capacity_after_crash"], bound_s(summary), " s"),
        ),
    )


def _accounted(summary: Mapping[str, Any]) -> Group:
    return Group(
        "Each invocation accounted for",
        (
            Row("asked for and made", str(summary["invocations"])),
            Row("granted a connection", str(summary["granted"])),
            Row("  of those killed while holding", str(summary["crashed"])),
            Row("refused by the governor", str(summary["refused"])),
            _must_be_zero("errors", summary["errors"]),
            Row("throttled by Lambda", str(summary["throttled"])),
        ),
    )


def _times(summary: Mapping[str, Any]) -> Group:
    return Group(
        "Times: p50 / p95 / p99",
        (
            Row("to wait and acquire", f"{_spread(summary['acquire_ms'])} ms"),
            Row("held", f"{_spread(summary['hold_ms'])} ms"),
            Row("longest lease", f"{summary['lease_ms'] / 1000:.1f} s"),
            Row("allowance for clocks", f"{summary['skew_ms'] / 1000:.1f} s"),
            Row("the whole run with the drill", f"{summary['duration_s']:.1f} s"),
        ),
    )


def _without(summary: Mapping[str, Any]) -> Group:
    without = summary["without_governor"]
    refused = without["mysql_refused_1040"]
    return Group(
        "The same load without it",
        (
            Row("asked for and made", str(without["invocations"])),
            Row("succeeded", str(without["succeeded"])),
            Row(f"refused by {label(summary)}", str(refused), "bad" if refused else "plain"),
        ),
    )


def _must_be_zero(name: str, value: int) -> Row:
    return Row(name, str(value), "bad" if value else "good")


def _within(name: str, value: float | None, most: float, unit: str) -> Row:
    good = value is not None and value <= most
    measured = "never" if value is None else f"{value:.3g}{unit}"
    return Row(name, f"{measured} (at most {most:.3g})", "good" if good else "bad")


def _spread(percentiles: Mapping[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.0f}" for value in percentiles.values())
