"""What a demo run recorded: enough to sum it up and to draw it, now or later from the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Samples = list[tuple[int, float]]
"""Values with their times, milliseconds since 1970 UTC."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One worker's hold of a connection, as the worker itself reported it (milliseconds since 1970 UTC)."""

    from_ms: int
    to_ms: int
    lease_ends_ms: int | None
    crashed: bool


@dataclass(frozen=True, slots=True)
class Load:
    """One load, of one or more runs of the harness function.

    Attributes:
        from_ms: its start.
        to_ms: its end.
        counts: invocations, granted, refused, errors, throttled, crashed.
        error_reasons: of the errors, with how often.
        acquire_ms: how long each worker took to be granted or refused.
        holds: each worker's hold.
        mysql_refused_ms: start times of the workers that the database itself refused (too many connections).
    """

    from_ms: int
    to_ms: int
    counts: dict[str, int]
    error_reasons: dict[str, int]
    acquire_ms: list[float]
    holds: list[Hold]
    mysql_refused_ms: list[int]


@dataclass(frozen=True, slots=True)
class Recording:
    """A demo run.

    Attributes:
        allowed: the budget.
        concurrency: workers at a time.
        asked: how many invocations were asked for.
        skew_ms: how far clocks may differ.
        governed: the load with the governor.
        ungoverned: the same load without it.
        crashed_at_ms: when the drill killed, or None if it found no holder to kill.
        killed: how many workers it killed.
        full_again_at_ms: when the whole budget was granted again, or None if it was not in time.
        leaked: connections that no acquire could get when lease + skew had passed since the last holder.
        mysql_sessions: the worker's sessions, by the database's own count.
        mysql_refused: connections that the database refused in the governed part, by its own count.
        lent: connections in use, read from the table.
        remaining: the metric `Remaining Connections` as the functions emitted it.
        refusals: the metric `NoConnLeftError`.
        metric_totals: sums of the forwarded counters.
        engine: the kind of the database that was loaded, a name of the variable ENGINE.
        engine_version: the numbers of its version, or nothing where the run did not ask for them.
    """

    allowed: int
    concurrency: int
    asked: int
    skew_ms: int
    governed: Load
    ungoverned: Load
    crashed_at_ms: int | None
    killed: int
    full_again_at_ms: int | None
    leaked: int
    mysql_sessions: Samples
    mysql_refused: int
    lent: Samples
    remaining: Samples
    refusals: Samples
    metric_totals: dict[str, int]
    engine: str = "mysql"
    engine_version: str = ""

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read what `write` wrote."""
        fields = json.loads(path.read_text())
        for name in ("governed", "ungoverned"):
            fields[name]["holds"] = [Hold(**hold) for hold in fields[name]["holds"]]
            fields[name] = Load(**fields[name])
        return cls(**fields)
