"""The observers of a running demo: the database's own count, the lease table, and the forwarded metrics."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from harness.demo.background import repeating
from harness.demo.observer import DatabaseObserver, TableObserver, now_ms, operations_of
from harness.demo.referee import referee_of
from harness.stack.bridge import MetricsBridge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.local_stack import Stack

DATABASE_EACH_S, TABLE_EACH_S, METRICS_EACH_S = 0.02, 0.2, 0.4


@dataclass(frozen=True, slots=True)
class Watch:
    """The figures known from outside, at any moment."""

    database: DatabaseObserver
    table: TableObserver
    bridge: MetricsBridge

    @property
    def refused(self) -> int:
        """How many workers the governor has refused."""
        return self.bridge.total("NoConnLeftError")

    @property
    def ended(self) -> int:
        """How many governed workers have ended, by their metrics."""
        return self.bridge.total("Granted") + self.refused

    @property
    def acquire_ms(self) -> float | None:
        """The median time to acquire so far."""
        latencies = [value for _, value in self.bridge.values("AcquireLatency")]
        return median(latencies) if latencies else None


@contextlib.contextmanager
def watching(stack: Stack) -> Iterator[Watch]:
    """Observe until the end of the block."""
    groups = [f"/aws/lambda/{stack.deployment.outputs[f'{name}FunctionName']}" for name in ("Governor", "Worker")]
    with contextlib.closing(referee_of(stack.database)) as referee:
        watch = Watch(
            DatabaseObserver(referee),
            TableObserver(operations_of(stack)),
            MetricsBridge(stack.aws, groups, since_ms=now_ms()),
        )
        with (
            repeating(watch.database.sample, DATABASE_EACH_S),
            repeating(watch.table.sample, TABLE_EACH_S),
            repeating(watch.bridge.pump, METRICS_EACH_S),
        ):
            yield watch
