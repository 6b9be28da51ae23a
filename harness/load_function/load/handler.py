"""Runs a load on the worker function, from the Lambda console: by the published sample's input, or the extended one."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import tally
from .outcome import Outcome, of_answer, of_failure
from .plan import BadInputError, Plan, read_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_lambda import LambdaClient

    Invoke = Callable[[dict[str, Any]], Outcome]


class Context(Protocol):
    """What is used of the Lambda context."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until this function's own time-out."""


MARGIN_MS = 10_000  # for the worker's cold start, and for writing the account


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Make the asked invocations and account for each; stops in time, and says so, where its own time-out is near."""
    try:
        plan = read_plan(event, any_seed=time.time_ns())
    except BadInputError as bad:
        return {"error": {"code": "invalid_request", "field": bad.field, "message": bad.message}}
    worker, worker_timeout_ms = os.environ["WORKER_FUNCTION"], int(os.environ["WORKER_TIMEOUT_SECONDS"]) * 1000
    client = lambda_client(plan.concurrency, worker_timeout_ms)
    started = time.monotonic()
    outcomes = run(
        plan,
        lambda payload: invoke(client, worker, payload),
        time_left=lambda: context.get_remaining_time_in_millis() > worker_timeout_ms + 2 * MARGIN_MS,
    )
    answer = {
        "requested": plan.iterations,
        **tally.account(outcomes),
        "not_started": plan.iterations - len(outcomes),
        "duration_s": round(time.monotonic() - started, 3),
        "seed": plan.seed,
    }
    return {**answer, "details": tally.details(outcomes)} if plan.details else answer


def lambda_client(concurrency: int, worker_timeout_ms: int) -> LambdaClient:
    """A client that never tries twice by itself, with a connection for each call in flight."""
    config = Config(
        retries={"total_max_attempts": 1},
        max_pool_connections=concurrency,
        read_timeout=(worker_timeout_ms + MARGIN_MS) / 1000,
    )
    return boto3.client("lambda", config=config)


def run(plan: Plan, invoke: Invoke, *, time_left: Callable[[], bool]) -> list[Outcome]:
    """Every iteration, in the order they ended, as many in flight as the plan has; none starts without time left."""
    outcomes: list[Outcome] = []
    flying: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(max_workers=plan.concurrency) as pool:
        for index, payload in enumerate(plan.events()):
            while not plan.may_start(index, len(flying)):
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                outcomes += [future.result() for future in landed]
            if not time_left():
                break
            flying.add(pool.submit(invoke, payload))
    return outcomes + [future.result() for future in flying]


def invoke(client: LambdaClient, worker: str, payload: dict[str, Any]) -> Outcome:
    """One invocation; whatever goes wrong is an outcome, never an exception."""
    started_ms = now_ms()
    try:
        answer = client.invoke(FunctionName=worker, Payload=json.dumps(payload).encode(), LogType="Tail")
        said = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            return of_failure(said, answer.get("LogResult", ""), started_ms=started_ms, ended_ms=now_ms())
        return of_answer(said, started_ms=started_ms)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "TooManyRequestsException":
            return Outcome("throttled", started_ms=started_ms, reason=code)
        return Outcome("error", started_ms=started_ms, reason=code)
    except (BotoCoreError, ValueError, AttributeError) as error:
        return Outcome("error", started_ms=started_ms, reason=type(error).__name__)


def now_ms() -> int:
    """Milliseconds since 1970 UTC, by this function's clock."""
    return time.time_ns() // 1_000_000
