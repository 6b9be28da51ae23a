"""What the worker does with its connection: reads the Employees table, holds on, and in a drill dies while it holds."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor import Lease

SAMPLE_HOLD_MS = (1_000, 3_000)  # as the published sample's worker
PING_EACH_SECONDS = 2.0  # MySQL ends a governed session that is idle for longer


@dataclass(frozen=True, slots=True)
class Errand:
    """What one event asks of the worker.

    Attributes:
        hold_ms: how long to hold the connection; drawn at random from 1 to 3 seconds where the event names nothing.
        timeout_ms: how long to wait for a connection; 0 = one try.
        governed: False connects without a lease, for comparison.
        crash: die while holding, at the end of the hold.
        answers: whether a refusal or an error is answered (`"on_refusal": "return"`) or raised, which is what makes
            Lambda retry an asynchronous event, and show it as failed.
    """

    hold_ms: int
    timeout_ms: int
    governed: bool
    crash: bool
    answers: bool

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Errand:
        """Read the event; every field may be left out."""
        hold = event.get("hold_ms", SAMPLE_HOLD_MS)
        return cls(
            hold_ms=random.randint(*hold) if isinstance(hold, list | tuple) else int(hold),  # noqa: S311  # a delay
            timeout_ms=int(event.get("timeout_ms", 0)),
            governed=bool(event.get("governed", True)),
            crash=bool(event.get("crash", False)),
            answers=event.get("on_refusal", "raise") == "return",
        )


def holding(lease: Lease | None, *, asked_ms: int, acquired_ms: int) -> dict[str, Any]:
    """What this worker holds, by its own clock: from the grant on, before MySQL is asked."""
    report = {
        "outcome": "granted",
        "statusCode": 200,
        "acquire_ms": acquired_ms - asked_ms,
        "open_ms": now_ms() - acquired_ms,
        "held_from_ms": acquired_ms,
        "pid": os.getpid(),
    }
    if lease is None:
        return report
    whose = {"lease_id": lease.lease_id, "shard": lease.shard, "fence": lease.fence}
    return {**report, **whose, "expires_at_ms": lease.expires_at_ms}


def run(connection: Connection[Cursor], errand: Errand, report: dict[str, Any]) -> dict[str, Any]:
    """Read, hold, and die if told to; returns the report with the rows read and the end of the hold.

    The report goes to the log before the hold, so that a worker that is killed has still said what it held.
    """
    say({"worker": "holding", **report})
    with connection.cursor() as cursor:
        rows = cursor.execute("SELECT EmployeeID, FirstName, LastName FROM Employees")
    _hold(connection, errand.hold_ms / 1000)
    if errand.crash:
        say({"worker": "crashing", **report, "held_to_ms": now_ms()})
        os.kill(os.getpid(), signal.SIGKILL)
    return {**report, "rows": rows, "held_to_ms": now_ms()}


def say(report: Mapping[str, Any]) -> None:
    """One JSON line to the log, at once."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def now_ms() -> int:
    """Milliseconds since 1970 UTC, by this worker's clock."""
    return time.time_ns() // 1_000_000


def _hold(connection: Connection[Cursor], seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        time.sleep(min(left, PING_EACH_SECONDS))
        connection.ping(reconnect=False)
