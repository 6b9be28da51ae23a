"""Forward metrics from log lines (embedded metric format) to the local CloudWatch, as AWS itself does.

The local AWS stores such lines and makes no metrics of them. The deployed code is the same as on AWS.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.stack.local_aws import LocalAws

LATE_MS = 10_000  # a line can appear this long after its time: it is written when its invocation ends
DATA_IN_ONE_CALL = 500


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric, at milliseconds since 1970 UTC."""

    at_ms: int
    namespace: str
    name: str
    value: float
    dimensions: tuple[tuple[str, str], ...]
    unit: str


@dataclass(slots=True)
class MetricsBridge:
    """Reads log groups and forwards what is new.

    Attributes:
        aws: where the logs and CloudWatch are.
        log_groups: names of the log groups to read.
        since_ms: older events are not looked at.
        points: all that was forwarded, in the order it was found.
    """

    aws: LocalAws
    log_groups: Sequence[str]
    since_ms: int
    points: list[Point] = field(default_factory=list)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def pump(self) -> None:
        """Forward every line that was not forwarded before."""
        found = [point for group in self.log_groups for line in self._new_lines(group) for point in points_of(line)]
        by_namespace: dict[str, list[Point]] = {}
        for point in found:
            by_namespace.setdefault(point.namespace, []).append(point)
        for namespace, points in by_namespace.items():
            self._put(namespace, points)
        self.points += found

    def total(self, name: str) -> int:
        """Return the sum of a counter's values."""
        return round(sum(point.value for point in list(self.points) if point.name == name))

    def values(self, name: str) -> list[tuple[int, float]]:
        """Return a metric's values with their times, oldest first."""
        return sorted((point.at_ms, point.value) for point in list(self.points) if point.name == name)

    def _new_lines(self, group: str) -> Iterator[str]:
        logs = self.aws.client("logs")
        newest = max((point.at_ms for point in self.points), default=self.since_ms + LATE_MS)
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, startTime=newest - LATE_MS)
        for event in (event for page in pages for event in page["events"]):
            key = (event["logStreamName"], event["message"])
            if key not in self._seen:
                self._seen.add(key)
                yield event["message"]

    def _put(self, namespace: str, points: list[Point]) -> None:
        cloudwatch = self.aws.client("cloudwatch")
        for first in range(0, len(points), DATA_IN_ONE_CALL):
            data = [_datum(point) for point in points[first : first + DATA_IN_ONE_CALL]]
            cloudwatch.put_metric_data(Namespace=namespace, MetricData=data)


def points_of(line: str) -> Iterator[Point]:
    """Yield the metrics in a log line; none if it is another kind of line."""
    if '"_aws"' not in line:
        return
    record = json.loads(line[line.index("{") :])
    for directive in record["_aws"]["CloudWatchMetrics"]:
        for dimension_set in directive["Dimensions"]:
            dimensions = tuple((name, str(record[name])) for name in dimension_set)
            for metric in directive["Metrics"]:
                values = record[metric["Name"]]
                for value in values if isinstance(values, list) else [values]:
                    yield Point(
                        at_ms=record["_aws"]["Timestamp"],
                        namespace=directive["Namespace"],
                        name=metric["Name"],
                        value=float(value),
                        dimensions=dimensions,
                        unit=metric.get("Unit", "None"),
                    )


def _datum(point: Point) -> dict[str, Any]:
    return {
        "MetricName": point.name,
        "Dimensions": [{"Name": name, "Value": value} for name, value in point.dimensions],
        "Timestamp": point.at_ms / 1000,
        "Value": point.value,
        "Unit": point.unit,
    }
