"""Run loads with the deployed harness function, and read its answers. The same seed gives the same load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.demo.observer import now_ms
from harness.demo.recording import Hold, Load
from harness.load_function.load.tally import TOO_MANY_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.stack.local_stack import Reachable

HOLD_MS = (400, 1200)
TIMEOUT_MS = 1000  # how long a worker waits for a connection
ANSWER_TIMEOUT_S = 900.0  # the harness function's own
COUNTS = ("invocations", "granted", "refused", "errors", "throttled", "crashed")


@dataclass(frozen=True, slots=True)
class Wave:
    """One run of the harness function: its input."""

    iterations: int
    concurrency: int
    profile: str
    seed: int
    governed: bool

    def event(self) -> dict[str, Any]:
        """Return the harness function's input."""
        return {
            "operation": "load",
            "iterations": self.iterations,
            "concurrency": self.concurrency,
            "profile": self.profile,
            "hold_ms": list(HOLD_MS),
            "timeout_ms": TIMEOUT_MS,
            "seed": self.seed,
            "governed": self.governed,
            "details": True,
        }


def run(stack: Reachable, wave: Wave) -> Load:
    """Run one wave; return its load."""
    from_ms = now_ms()
    answer = stack.invoke("HarnessFunctionName", wave.event(), timeout_s=ANSWER_TIMEOUT_S)
    return load_of(answer, from_ms, now_ms())


def load_of(answer: dict[str, Any], from_ms: int, to_ms: int) -> Load:
    """Read the harness function's answer."""
    columns = answer["details"]["columns"]
    rows = [dict(zip(columns, row, strict=True)) for row in answer["details"]["rows"]]
    return Load(
        from_ms,
        to_ms,
        counts={name: answer[name] for name in COUNTS},
        error_reasons=answer["error_reasons"],
        acquire_ms=[row["acquire_ms"] for row in rows if row["acquire_ms"] is not None],
        holds=sorted(_holds(rows), key=lambda hold: hold.from_ms),
        mysql_refused_ms=[row["started_ms"] for row in rows if row["mysql_error"] in TOO_MANY_CONNECTIONS],
    )


def together(*loads: Load) -> Load:
    """Return several loads, one after the other, as one."""
    return Load(
        from_ms=loads[0].from_ms,
        to_ms=loads[-1].to_ms,
        counts={name: sum(load.counts[name] for load in loads) for name in COUNTS},
        error_reasons=dict(sum((Counter(load.error_reasons) for load in loads), Counter())),
        acquire_ms=[value for load in loads for value in load.acquire_ms],
        holds=[hold for load in loads for hold in load.holds],
        mysql_refused_ms=[at_ms for load in loads for at_ms in load.mysql_refused_ms],
    )


def _holds(rows: Iterable[dict[str, Any]]) -> list[Hold]:
    return [
        Hold(row["held_from_ms"], row["held_to_ms"], row["expires_at_ms"], row["crashed"])
        for row in rows
        if row["kind"] == "granted" and row["held_from_ms"] is not None and row["held_to_ms"] is not None
    ]
