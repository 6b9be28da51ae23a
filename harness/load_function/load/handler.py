"""Run a load on the worker function, from the Lambda console: by the published sample's input, or the extended one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from . import tally
from .invocation import MARGIN_MS, Worker
from .plan import BadInputError, read_plan
from .runner import run

if TYPE_CHECKING:
    from collections.abc import Mapping


class Context(Protocol):
    """The part of the Lambda context that is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until this function's own time-out."""


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Make the invocations and account for each; near its own time-out stop, and report that."""
    try:
        plan = read_plan(event, any_seed=time.time_ns())
    except BadInputError as bad:
        return {"error": {"code": "invalid_request", "field": bad.field, "message": bad.message}}
    timeout_ms, started = int(os.environ["WORKER_TIMEOUT_SECONDS"]) * 1000, time.monotonic()
    worker = Worker(os.environ["WORKER_FUNCTION"], timeout_ms=timeout_ms, concurrency=plan.concurrency)
    needed_ms = timeout_ms + 2 * MARGIN_MS
    outcomes = run(plan, worker.invoke, time_left=lambda: context.get_remaining_time_in_millis() > needed_ms)
    return tally.answer(plan, outcomes, duration_s=round(time.monotonic() - started, 3))
