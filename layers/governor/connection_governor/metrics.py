"""Metrics as log lines in CloudWatch's embedded metric format: no PutMetricData call on any path.

Written here and not with Powertools: a worker cannot afford that import. The functions use the same lines, so that a
metric has one definition.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMESPACE: Final = "RDSLambda"
DIMENSION: Final = "DBName"

_HIGH_RESOLUTION: Final = 1  # seconds
_as_json = json.JSONEncoder(separators=(",", ":"), check_circular=False, default=str).encode
METRICS: Final[dict[str, dict[str, str | int]]] = {
    "Remaining Connections": {"Unit": "Count", "StorageResolution": _HIGH_RESOLUTION},
    "NoConnLeftError": {"Unit": "Count", "StorageResolution": _HIGH_RESOLUTION},
    "ConnectionsInUse": {"Unit": "Count"},
    "AllowedConnections": {"Unit": "Count"},
    "Utilization": {"Unit": "Percent"},
    "Granted": {"Unit": "Count"},
    "Released": {"Unit": "Count"},
    "LeasesExpired": {"Unit": "Count"},
    "AcquireLatency": {"Unit": "Milliseconds"},
    "ObservedConnections": {"Unit": "Count"},
    "Drift": {"Unit": "Count"},
    "UngovernedConnections": {"Unit": "Count"},
    "SessionNamesUnknown": {"Unit": "Count"},
    "StatementLimitMissing": {"Unit": "Count"},
    "WrongClock": {"Unit": "Count"},
    "TooFast": {"Unit": "Count"},
}


def emf_line(database: str, values: Mapping[str, float], *, now_ms: int, **properties: object) -> str:
    """Return one log line that CloudWatch turns into these metrics of the database.

    Args:
        database: the only dimension, `DBName`.
        values: metric name -> value, in the unit of `METRICS`.
        now_ms: time of the measurement, milliseconds since 1970 UTC.
        properties: other fields for a reader of the log.
    """
    fields = _as_json({DIMENSION: database, **values, **properties})
    return f'{{"_aws":{{"Timestamp":{now_ms},"CloudWatchMetrics":[{_directive(tuple(values))}]}},{fields[1:]}'


@lru_cache(maxsize=32)
def _directive(names: tuple[str, ...]) -> str:
    """Return the part that names the metrics for CloudWatch: the same for every line of one kind."""
    definitions = [{"Name": name, **METRICS[name]} for name in names]
    return _as_json({"Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": definitions})


def write_to_log(line: str) -> None:
    """Print the line in one write; a failing log never fails the caller."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        return


class Reporter:
    """Reports what happened to a database's leases.

    Args:
        write: takes a finished line.
    """

    def __init__(self, write: Callable[[str], None] = write_to_log) -> None:
        self._write = write

    def emit(self, database: str, values: Mapping[str, float], *, now_ms: int, **properties: object) -> None:
        """Write one line of metrics. A failing log must not fail the caller: a lease would be left behind."""
        try:
            self._write(emf_line(database, values, now_ms=now_ms, **properties))
        except Exception:  # noqa: BLE001 - see above
            return

    def granted(
        self, database: str, gauges: Mapping[str, float], *, took_ms: int, now_ms: int, **details: object
    ) -> None:
        """Report an acquire that ended with a lease."""
        self.emit(database, {**gauges, "Granted": 1, "AcquireLatency": took_ms}, now_ms=now_ms, **details)

    def refused(
        self,
        database: str,
        gauges: Mapping[str, float],
        *,
        took_ms: int,
        now_ms: int,
        too_fast: bool = False,
        **details: object,
    ) -> None:
        """Report an acquire that ended refused: one line for each call, however often it tried.

        A refusal for the opening rate is not one for the budget, and is counted apart.
        """
        count = {"TooFast" if too_fast else "NoConnLeftError": 1}
        self.emit(database, {**gauges, **count, "AcquireLatency": took_ms}, now_ms=now_ms, **details)

    def released(self, database: str, gauges: Mapping[str, float], *, now_ms: int, **details: object) -> None:
        """Report a release."""
        self.emit(database, {**gauges, "Released": 1}, now_ms=now_ms, **details)

    def ungoverned(self, database: str, reason: str, *, now_ms: int, **details: object) -> None:
        """Report a worker that connects without a lease, because the governor could not be reached."""
        self.emit(database, {"UngovernedConnections": 1}, now_ms=now_ms, reason=reason, **details)

    def wrong_clock(self, database: str, reason: str, *, now_ms: int, **details: object) -> None:
        """Report an acquire or renew refused because this machine's clock is wrong; nothing was written by it."""
        self.emit(database, {"WrongClock": 1}, now_ms=now_ms, reason=reason, **details)

    def note(self, message: str, **properties: object) -> None:
        """Write a log line that is no metric."""
        with suppress(Exception):
            self._write(_as_json({"message": message, **properties}))


def gauges(*, allowed: int, in_use: int, exact: bool) -> dict[str, float]:
    """Return the gauges of a database; none if they were estimated from one of several shards."""
    if not exact:
        return {}
    utilization = round(100 * in_use / allowed, 1) if allowed else 0.0
    return {
        "Remaining Connections": allowed - in_use,
        "ConnectionsInUse": in_use,
        "AllowedConnections": allowed,
        "Utilization": utilization,
    }
