"""The metric lines as CloudWatch reads them."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from connection_governor.metrics import METRICS, Reporter, emf_line, gauges, write_to_log
from tests.support.virtual import NOW_MS, Journal

CONTRACT = {
    "Remaining Connections",
    "NoConnLeftError",
    "ConnectionsInUse",
    "AllowedConnections",
    "Utilization",
    "Granted",
    "Released",
    "LeasesExpired",
    "AcquireLatency",
    "ObservedConnections",
    "Drift",
    "UngovernedConnections",
    "SessionNamesUnknown",
    "StatementLimitMissing",
    "WrongClock",
    "TooFast",
}


@pytest.fixture
def journal() -> Journal:
    return Journal()


def only_line(journal: Journal) -> dict[str, Any]:
    (line,) = journal.lines
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_has_the_published_samples_namespace_and_dimension_and_no_other() -> None:
    """Dashboards and alarms made for the sample would show nothing; one more dimension is another metric."""
    line = json.loads(emf_line("Prod_MySQL", {"Remaining Connections": 3, "Granted": 1}, now_ms=NOW_MS, holder="a/1"))
    assert line == {
        "_aws": {
            "Timestamp": NOW_MS,
            "CloudWatchMetrics": [
                {
                    "Namespace": "RDSLambda",
                    "Dimensions": [["DBName"]],
                    "Metrics": [
                        {"Name": "Remaining Connections", "Unit": "Count", "StorageResolution": 1},
                        {"Name": "Granted", "Unit": "Count"},
                    ],
                }
            ],
        },
        "DBName": "Prod_MySQL",
        "Remaining Connections": 3,
        "Granted": 1,
        "holder": "a/1",
    }


def test_the_metrics_are_those_of_the_contract() -> None:
    """Their names are public: an alarm on a renamed metric never fires."""
    assert set(METRICS) == CONTRACT
    assert {name for name, unit in METRICS.items() if unit.get("StorageResolution") == 1} == {
        "Remaining Connections",
        "NoConnLeftError",
    }


def test_a_metric_without_a_definition_is_a_mistake() -> None:
    """CloudWatch would drop the line without a word."""
    with pytest.raises(KeyError):
        emf_line("orders", {"Remaning Connections": 1}, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("allowed", "in_use", "utilization"), [(10, 3, 30.0), (3, 1, 33.3), (0, 0, 0.0), (2, 3, 150.0), (10, 0, 0.0)]
)
def test_gauges_of_what_is_known_exactly(allowed: int, in_use: int, utilization: float) -> None:
    """A closed database must not divide by zero; an overdrawn one must show it."""
    assert gauges(allowed=allowed, in_use=in_use, exact=True) == {
        "Remaining Connections": allowed - in_use,
        "ConnectionsInUse": in_use,
        "AllowedConnections": allowed,
        "Utilization": utilization,
    }


def test_an_estimate_is_no_gauge() -> None:
    """With several shards each would draw its own curve over the others'."""
    assert gauges(allowed=10, in_use=3, exact=False) == {}


def test_a_refusal_counts_one_error(journal: Journal) -> None:
    """The alarm is on its sum."""
    Reporter(journal).refused("orders", {"ConnectionsInUse": 3}, took_ms=12, now_ms=NOW_MS, holder="a/1")
    line = only_line(journal)
    assert (line["NoConnLeftError"], line["AcquireLatency"], line["ConnectionsInUse"], line["holder"]) == (
        1,
        12,
        3,
        "a/1",
    )


def test_a_grant_and_a_release_are_counted(journal: Journal) -> None:
    """Throughput and leaks are read from the two."""
    reporter = Reporter(journal)
    reporter.granted("orders", {}, took_ms=3, now_ms=NOW_MS)
    reporter.released("orders", {}, now_ms=NOW_MS)
    granted, released = map(json.loads, journal.lines)
    assert (granted["Granted"], granted["AcquireLatency"], released["Released"]) == (1, 3, 1)
    assert "NoConnLeftError" not in granted


def test_a_connection_without_a_lease_says_why(journal: Journal) -> None:
    """An operator who chose to continue in an outage must see how often it happened."""
    Reporter(journal).ungoverned("orders", "DynamoDB cannot be reached", now_ms=NOW_MS)
    line = only_line(journal)
    assert (line["UngovernedConnections"], line["reason"]) == (1, "DynamoDB cannot be reached")


def test_a_note_is_no_metric(journal: Journal) -> None:
    """CloudWatch charges by the metric."""
    Reporter(journal).note("lease left to expire", lease_id="lease-01", error=ValueError("x"))
    assert only_line(journal) == {"message": "lease left to expire", "lease_id": "lease-01", "error": "x"}


def test_odd_names_stay_in_one_line(journal: Journal) -> None:
    """A holder with odd characters would break the line, and the metric with it."""
    Reporter(journal).granted("orders", {}, took_ms=1, now_ms=NOW_MS, holder="größe\u2028/\ud800")
    assert only_line(journal)["holder"] == "größe\u2028/\ud800"


class Broken(io.StringIO):
    """A standard output that cannot be written to."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")], ids=["pipe", "ascii"])
def test_a_log_that_cannot_be_written_fails_no_caller(stream: io.TextIOBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker would lose its connection, or its result, for a metric."""
    monkeypatch.setattr(sys, "stdout", stream)
    write_to_log("größe")
    if isinstance(stream, io.TextIOWrapper):
        stream.detach()


def test_a_writer_that_raises_fails_no_caller() -> None:
    """A failing writer of metrics must not fail the work that it measures."""

    def write(_line: str) -> None:
        raise RuntimeError("the agent is gone")

    reporter = Reporter(write)
    reporter.granted("orders", {}, took_ms=1, now_ms=NOW_MS)
    reporter.note("left")


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would mix their lines, and CloudWatch find none."""
    written: list[str] = []
    stream = io.StringIO()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr(sys, "stdout", stream)
    write_to_log("{}")
    assert written == ["{}\n"]
