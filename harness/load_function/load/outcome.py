"""The outcome of one invocation, read from Lambda's answer. Pure."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

_REASON_CHARACTERS = 120

Kind = Literal["granted", "refused", "error", "throttled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One invocation, accounted for.

    Attributes:
        kind: what it counts as. A worker that died while it held was granted.
        crashed: whether it died while it held.
        started_ms: when it was made, by the harness's clock.
        acquire_ms: how long the worker took to be granted or refused.
        held_from_ms: start of what the worker reports as its hold, by the worker's clock.
        held_to_ms: its end; for a worker that was killed, when the harness learned of its death.
        expires_at_ms: end of its lease.
        lease_id: its lease.
        pid: the worker's process.
        mysql_error: the database's error, if it refused or failed: MySQL's number, or PostgreSQL's SQLSTATE.
        reason: of an error, in a few words.
    """

    kind: Kind
    crashed: bool = False
    started_ms: int = 0
    acquire_ms: float | None = None
    held_from_ms: int | None = None
    held_to_ms: int | None = None
    expires_at_ms: int | None = None
    lease_id: str | None = None
    pid: int | None = None
    mysql_error: int | str | None = None
    reason: str | None = None


def of_answer(answer: dict[str, Any], *, started_ms: int) -> Outcome:
    """Return the outcome that the worker itself reports."""
    kind = answer.get("outcome")
    if kind not in ("granted", "refused", "error"):
        return Outcome("error", started_ms=started_ms, reason="unreadable answer")
    return Outcome(
        kind,
        started_ms=started_ms,
        acquire_ms=answer.get("acquire_ms"),
        held_from_ms=answer.get("held_from_ms"),
        held_to_ms=answer.get("held_to_ms"),
        expires_at_ms=answer.get("expires_at_ms"),
        lease_id=answer.get("lease_id"),
        pid=answer.get("pid"),
        mysql_error=answer.get("mysql_error"),
        reason=answer.get("reason"),
    )


def of_failure(failure: dict[str, Any], log_tail: str, *, started_ms: int, ended_ms: int) -> Outcome:
    """Return the outcome of a worker that gave no answer: a crash if its log shows that it held, else an error."""
    last_report = _last_words(log_tail)
    if last_report is None:
        reason = str(failure.get("errorMessage") or "function failed")[:_REASON_CHARACTERS]
        return Outcome("error", started_ms=started_ms, reason=reason)
    return Outcome(
        "granted",
        crashed=True,
        started_ms=started_ms,
        acquire_ms=last_report.get("acquire_ms"),
        held_from_ms=last_report.get("held_from_ms"),
        held_to_ms=last_report.get("held_to_ms", ended_ms),
        expires_at_ms=last_report.get("expires_at_ms"),
        lease_id=last_report.get("lease_id"),
        pid=last_report.get("pid"),
    )


def _last_words(log_tail: str) -> dict[str, Any] | None:
    """Return the worker's last report of its hold in the tail of its log (base64, as Lambda gives it)."""
    lines = base64.b64decode(log_tail).decode(errors="replace").splitlines()
    reports = [report for line in lines if (report := _report(line))]
    return reports[-1] if reports else None


def _report(line: str) -> dict[str, Any] | None:
    if '"worker":' not in line:
        return None
    try:
        report = json.loads(line[line.index("{") :])
    except ValueError:
        return None  # the tail's first line may be cut
    return report if isinstance(report, dict) and report.get("worker") in ("holding", "crashing") else None
