"""Sum up a demo run: the figures of `summary.json`, and which promises did not hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.load_function.load.tally import most_at_once, percentiles
from harness.stack.engines import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.demo.recording import Hold, Recording

DETECTION_S = 1.0  # time allowed beyond lease + skew until the budget is full again
CLEAR_PRESSURE = 2  # times the budget: with so many workers at a time, some must be refused


def summarise(recording: Recording) -> dict[str, Any]:
    """Return the figures of `summary.json`; the fields are public (see docs), and named after MySQL on every engine."""
    governed, without = recording.governed, recording.ungoverned
    return {
        "engine": recording.engine,
        "engine_version": recording.engine_version,
        "allowed": recording.allowed,
        **governed.counts,
        "over_grants": max(0, peak_held(recording.governed.holds) - recording.allowed),
        "leaked_leases": recording.leaked,
        "peak_in_use": int(max((lent for _, lent in _while_governed(recording)), default=0)),
        "mysql_peak_connections": mysql_peak(recording),
        "mysql_refused_1040": max(recording.mysql_refused, len(governed.mysql_refused_ms)),
        "acquire_ms": percentiles(governed.acquire_ms),
        "hold_ms": percentiles(hold.to_ms - hold.from_ms for hold in governed.holds),
        "duration_s": round((governed.to_ms - governed.from_ms) / 1000, 1),
        "lease_ms": longest_lease_ms(recording.governed.holds),
        "skew_ms": recording.skew_ms,
        "seconds_to_full_capacity_after_crash": seconds_to_full(recording),
        "without_governor": {
            "invocations": without.counts["invocations"],
            "succeeded": without.counts["granted"],
            "mysql_refused_1040": len(without.mysql_refused_ms),
        },
    }


def label(summary: Mapping[str, Any]) -> str:
    """Return the engine's name in messages and reports."""
    return SERVERS[summary["engine"]].LABEL


def peak_held(holds: Iterable[Hold]) -> int:
    """Return the most holds that overlapped."""
    return most_at_once((hold.from_ms, hold.to_ms, 1) for hold in holds)


def longest_lease_ms(holds: list[Hold]) -> int:
    """Return the longest lease that a worker was given."""
    return max((hold.lease_ends_ms - hold.from_ms for hold in holds if hold.lease_ends_ms), default=0)


def mysql_peak(recording: Recording) -> int:
    """Return the database's highest count of the worker's sessions in the governed part."""
    first, last = recording.governed.from_ms, recording.ungoverned.from_ms
    return int(max((count for at_ms, count in recording.mysql_sessions if first <= at_ms < last), default=0))


def seconds_to_full(recording: Recording) -> float | None:
    """Return the seconds from the crash until the whole budget was granted again; None without crash or recovery."""
    if recording.full_again_at_ms is None or recording.crashed_at_ms is None:
        return None
    return round((recording.full_again_at_ms - recording.crashed_at_ms) / 1000, 2)


def broken_promises(summary: dict[str, Any], recording: Recording) -> list[str]:
    """Return the promises that did not hold, in words; empty if all did."""
    return [*_broken(summary, recording), *_not_shown(summary, recording)]


def not_kept(summary: dict[str, Any], recording: Recording) -> list[str]:
    """Return the promises that did not hold, without what only the local demo can provoke and see."""
    return list(_broken(summary, recording))


def _broken(summary: dict[str, Any], recording: Recording) -> Iterator[str]:
    if summary["over_grants"]:
        yield f"over-granted by {summary['over_grants']}"
    if summary["leaked_leases"]:
        yield f"{summary['leaked_leases']} leases leaked"
    if summary["errors"]:
        yield f"{summary['errors']} invocations failed: {recording.governed.error_reasons}"
    if summary["mysql_refused_1040"]:
        yield f"{label(summary)} refused {summary['mysql_refused_1040']} governed connections"
    if summary["mysql_peak_connections"] > summary["allowed"]:
        yield f"{label(summary)} counted {summary['mysql_peak_connections']} connections, more than the budget"
    accounted = sum(summary[name] for name in ("granted", "refused", "errors", "throttled"))
    if not summary["invocations"] == accounted == recording.asked:
        yield f"{recording.asked} invocations asked for, {summary['invocations']} made, {accounted} accounted for"
    took_s, most_s = summary["seconds_to_full_capacity_after_crash"], bound_s(summary)
    if took_s is None or took_s > most_s:
        yield f"the full budget came back after {took_s} s, not within {most_s:g} s of the crash"


def bound_s(summary: Mapping[str, Any]) -> float:
    """Return the seconds within which the full budget must be back after a crash."""
    return float((summary["lease_ms"] + summary["skew_ms"]) / 1000 + DETECTION_S)


def _not_shown(summary: dict[str, Any], recording: Recording) -> Iterator[str]:
    """Return what the run should have provoked and did not: without it the figures prove little."""
    if not 0 < summary["crashed"] == recording.killed:
        yield f"the drill killed {recording.killed} workers, but {summary['crashed']} died while they held"
    for metric, figure in (("Granted", "granted"), ("NoConnLeftError", "refused")):
        if recording.metric_totals[metric] != summary[figure]:
            yield f"the metric {metric} sums up to {recording.metric_totals[metric]}, not to {summary[figure]}"
    if recording.concurrency >= CLEAR_PRESSURE * recording.allowed:
        if not summary["refused"]:
            yield "no worker was refused: the load was too small for the budget"
        if not summary["without_governor"]["mysql_refused_1040"]:
            yield f"{label(summary)} refused no worker without the governor: the load would not have needed one"


def _while_governed(recording: Recording) -> Iterator[tuple[int, float]]:
    """Return the connections in use during the load, by the table and by each grant's metric."""
    last = recording.governed.to_ms
    yield from ((at_ms, lent) for at_ms, lent in recording.lent if at_ms <= last)
    yield from ((at_ms, recording.allowed - left) for at_ms, left in recording.remaining if at_ms <= last)
