"""The account of a run: counts that add up, percentiles, and the most holds that overlapped. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from .outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .plan import Plan

TOO_MANY_CONNECTIONS: Final[frozenset[int | str]] = frozenset({1040, 1226, "53300"})  # MySQL's, MariaDB's; PostgreSQL's
MAX_DETAILS: Final = 30_000  # rows; an answer may have 6 MB
_PERCENTILES: Final = (50, 95, 99)


def answer(plan: Plan, outcomes: Sequence[Outcome], *, duration_s: float) -> dict[str, Any]:
    """Return the function's answer: the account, what was not started, and each invocation where the plan asks."""
    whole = {
        "requested": plan.iterations,
        **account(outcomes),
        "not_started": plan.iterations - len(outcomes),
        "duration_s": duration_s,
        "seed": plan.seed,
    }
    return {**whole, "details": details(outcomes)} if plan.details else whole


def account(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return counts and percentiles: `invocations = granted + refused + errors + throttled`, `crashed` in `granted`."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    granted = [outcome for outcome in outcomes if outcome.kind == "granted"]
    return {
        "invocations": len(outcomes),
        "granted": kinds["granted"],
        "refused": kinds["refused"],
        "errors": kinds["error"],
        "throttled": kinds["throttled"],
        "crashed": sum(outcome.crashed for outcome in outcomes),
        "mysql_refused_1040": sum(outcome.mysql_error in TOO_MANY_CONNECTIONS for outcome in outcomes),
        "peak_held": peak_held(granted),
        "acquire_ms": percentiles(o.acquire_ms for o in outcomes if o.acquire_ms is not None),
        "hold_ms": percentiles(
            o.held_to_ms - o.held_from_ms for o in granted if o.held_to_ms is not None and o.held_from_ms is not None
        ),
        "error_reasons": dict(Counter(o.reason or "unknown" for o in outcomes if o.kind == "error").most_common(10)),
    }


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """Return `{"p50", "p95", "p99"}` by the nearest rank; None without a value."""
    ranked = sorted(values)
    return {f"p{p}": ranked[-(-len(ranked) * p // 100) - 1] if ranked else None for p in _PERCENTILES}


def peak_held(granted: Iterable[Outcome]) -> int:
    """Return the most holds that overlap, as the workers report them."""
    return most_at_once(
        (outcome.held_from_ms, outcome.held_to_ms, 1)
        for outcome in granted
        if outcome.held_from_ms is not None and outcome.held_to_ms is not None
    )


def most_at_once(holds: Iterable[tuple[int, int, int]]) -> int:
    """Return the most connections held at one moment; a hold that ends as another starts does not overlap it.

    Args:
        holds: start, end and connections of each hold, in one unit of time.
    """
    changes = [change for start, end, count in holds for change in ((start, count), (end, -count))]
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return each invocation as a row, the columns named once; `truncated` if the answer would get too large."""
    rows = [list(asdict(outcome).values()) for outcome in outcomes[:MAX_DETAILS]]
    columns = [field.name for field in fields(Outcome)]
    return {"columns": columns, "rows": rows, "truncated": len(outcomes) > MAX_DETAILS}
