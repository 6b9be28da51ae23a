"""Invoke the worker function; every end of an invocation is an outcome."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .outcome import Outcome, of_answer, of_failure

MARGIN_MS = 10_000  # for the worker's cold start, and for writing the account


class Worker:
    """The worker function, by a client that never retries, with a connection for each call in flight.

    Args:
        name: the function's.
        timeout_ms: the function's own time-out.
        concurrency: how many invocations may be in flight.
    """

    def __init__(self, name: str, *, timeout_ms: int, concurrency: int) -> None:
        config = Config(
            retries={"total_max_attempts": 1},
            max_pool_connections=concurrency,
            read_timeout=(timeout_ms + MARGIN_MS) / 1000,
        )
        self._name = name
        self._client = boto3.client("lambda", config=config)

    def invoke(self, payload: dict[str, Any]) -> Outcome:
        """Make one invocation; a failure is an outcome, never an exception."""
        started_ms = now_ms()
        try:
            answer = self._client.invoke(FunctionName=self._name, Payload=json.dumps(payload).encode(), LogType="Tail")
            body = json.loads(answer["Payload"].read())
            if answer.get("FunctionError"):
                return of_failure(body, answer.get("LogResult", ""), started_ms=started_ms, ended_ms=now_ms())
            return of_answer(body, started_ms=started_ms)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            kind: Literal["throttled", "error"] = "throttled" if code == "TooManyRequestsException" else "error"
            return Outcome(kind, started_ms=started_ms, reason=code)
        except (BotoCoreError, ValueError, AttributeError) as error:
            return Outcome("error", started_ms=started_ms, reason=type(error).__name__)


def now_ms() -> int:
    """Return milliseconds since 1970 UTC, by this function's clock."""
    return time.time_ns() // 1_000_000
