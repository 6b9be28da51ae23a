"""The published sample's worker, corrected: a governed connection for each call, and a visible refusal."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any

from connection_governor import Governor
from connection_governor.database.fence import Fence
from connection_governor.wiring import Environment, opener
from job import Job, failure_report, now_ms

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@cache
def governor() -> Governor:
    """Return this environment's governor."""
    return Governor.from_env()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Do the job on a governed connection; see `job.Job` for what an event may ask."""
    job, asked_ms = Job.of(event or {}), now_ms()
    try:
        if not job.governed:  # for comparison: the database itself refuses connections above the budget
            with closing(opener(Environment.current()).new_session(Fence(), "", None)) as connection:
                connection.connect()
                return job.do(connection, lease=None, asked_ms=asked_ms, acquired_ms=now_ms())
        with governor().connection(timeout=job.timeout_ms / 1000, context=context) as connection:
            return job.do(connection, lease=connection.lease, asked_ms=asked_ms, acquired_ms=connection.acquired_ms)
    except Exception as error:
        if not job.answers:
            raise  # Lambda then retries an asynchronous event, and counts an error: a refusal never passes for success
        return failure_report(error, acquire_ms=now_ms() - asked_ms)
