"""Recordings of a demo run, as its report and its summary take them."""

from dataclasses import replace
from typing import Any

from harness.demo.recording import Hold, Load, Recording


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
    """Return a run with a budget of 1 in which all went well: three granted, one of them killed, and one refused."""
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
