"""What the bridge makes of log lines: the metrics that AWS itself would."""

import json

from connection_governor.metrics import emf_line
from harness.stack.bridge import points_of


def test_a_line_of_metrics_becomes_one_point_each() -> None:
    """The report and the alarms are fed by these points alone."""
    line = emf_line("orders", {"Remaining Connections": 3, "NoConnLeftError": 1}, now_ms=1_700_000_000_123, holder="x")
    points = list(points_of(line))
    assert [(point.name, point.value, point.at_ms) for point in points] == [
        ("Remaining Connections", 3.0, 1_700_000_000_123),
        ("NoConnLeftError", 1.0, 1_700_000_000_123),
    ]
    assert {(point.namespace, point.dimensions) for point in points} == {("RDSLambda", (("DBName", "orders"),))}


def test_each_of_several_values_is_a_point() -> None:
    """A line may hold up to a hundred values of a metric, and sums would miss all but one."""
    record = json.loads(emf_line("orders", {"Granted": 1}, now_ms=1_700_000_000_123))
    points = list(points_of(json.dumps(record | {"Granted": [1, 1, 2]})))
    assert [point.value for point in points] == [1.0, 1.0, 2.0]


def test_other_lines_are_passed_over() -> None:
    """Logs hold more than metrics; a traceback or a report must not stop the bridge."""
    assert not list(points_of("START RequestId: 1"))
    assert not list(points_of(json.dumps({"message": "hello"})))
