"""The example worker's job: read the Employees table, hold the connection, and in a drill die while it is held."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connection_governor import NoConnectionsLeft

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor import Lease

SAMPLE_HOLD_MS = (1_000, 3_000)  # as the published sample's worker
SPEAK_EACH_SECONDS = 2.0  # the database ends a governed session that is idle for longer


@dataclass(frozen=True, slots=True)
class Job:
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
    def of(cls, event: Mapping[str, Any]) -> Job:
        """Read the event; every field may be left out."""
        hold = event.get("hold_ms", SAMPLE_HOLD_MS)
        return cls(
            hold_ms=random.randint(*hold) if isinstance(hold, list | tuple) else int(hold),  # noqa: S311  # a delay
            timeout_ms=int(event.get("timeout_ms", 0)),
            governed=bool(event.get("governed", True)),
            crash=bool(event.get("crash", False)),
            answers=event.get("on_refusal", "raise") == "return",
        )

    def do(
        self,
        connection: Any,  # noqa: ANN401 - any driver's
        *,
        lease: Lease | None,
        asked_ms: int,
        acquired_ms: int,
    ) -> dict[str, Any]:
        """Read, hold, and die if asked to; return the report of the hold, with the rows read and its end.

        The report goes to the log before the hold, so that a killed worker has already reported what it held.
        """
        report = hold_report(lease, asked_ms=asked_ms, acquired_ms=acquired_ms)
        log({"worker": "holding", **report})
        with connection.cursor() as cursor:
            cursor.execute("SELECT EmployeeID, FirstName, LastName FROM Employees")
            rows = len(cursor.fetchall())
        _hold(connection, self.hold_ms / 1000)
        if self.crash:
            log({"worker": "crashing", **report, "held_to_ms": now_ms()})
            os.kill(os.getpid(), signal.SIGKILL)
        return {**report, "rows": rows, "held_to_ms": now_ms()}


def hold_report(lease: Lease | None, *, asked_ms: int, acquired_ms: int) -> dict[str, Any]:
    """Return what this worker holds, by its own clock: from the grant on, before it connects to the database."""
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
    identity = {"lease_id": lease.lease_id, "shard": lease.shard, "fence": lease.fence}
    return {**report, **identity, "expires_at_ms": lease.expires_at_ms}


def failure_report(error: Exception, *, acquire_ms: int) -> dict[str, Any]:
    """Return a refusal or an error as an answer, for callers that asked for one."""
    if isinstance(error, NoConnectionsLeft):
        counts = {"retry_after_ms": error.retry_after_ms, "allowed": error.allowed, "in_use": error.in_use}
        return {"outcome": "refused", "statusCode": 429, "acquire_ms": acquire_ms, **counts}
    return {"outcome": "error", "statusCode": 503, "reason": type(error).__name__, "mysql_error": _code(error)}


def _code(error: Exception) -> int | str | None:
    """Return the code of a driver's error: PyMySQL's begin with their number, psycopg's carry `sqlstate`.

    PyMySQL 1.2's carry a `sqlstate` as well, which many errors share: 42000 stands for 1226 and for a wrong statement.
    """
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    return number or getattr(error, "sqlstate", None)


def log(report: Mapping[str, Any]) -> None:
    """Write one JSON line to the log, at once."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def now_ms() -> int:
    """Return milliseconds since 1970 UTC, by this worker's clock."""
    return time.time_ns() // 1_000_000


def _hold(connection: Any, seconds: float) -> None:  # noqa: ANN401 - any driver's
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        time.sleep(min(left, SPEAK_EACH_SECONDS))
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
