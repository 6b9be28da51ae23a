"""The published sample's worker done right: a governed MySQL connection for each call, and a refusal that is seen."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pymysql import err

from connection_governor import Governor, GovernorError, NoConnectionsLeft
from connection_governor.mysql.fence import Fence
from connection_governor.wiring import Environment, opener
from employees import Errand, holding, now_ms, run

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@cache
def governor() -> Governor:
    """This environment's governor."""
    return Governor.from_env()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Carry out the errand; see `employees.Errand` for what an event may ask."""
    errand, asked_ms = Errand.of(event or {}), now_ms()
    try:
        return governed(errand, context, asked_ms) if errand.governed else ungoverned(errand, asked_ms)
    except (GovernorError, err.MySQLError) as error:
        if not errand.answers:
            raise  # Lambda then retries an asynchronous event, and counts an error: nobody takes it for success
        return explained(error, acquire_ms=now_ms() - asked_ms)


def governed(errand: Errand, context: LambdaContext, asked_ms: int) -> dict[str, Any]:
    """The four lines that a worker needs, and a report of what was held."""
    with governor().connection(timeout=errand.timeout_ms / 1000, context=context) as connection:
        return run(connection, errand, holding(connection.lease, asked_ms=asked_ms, acquired_ms=connection.acquired_ms))


def ungoverned(errand: Errand, asked_ms: int) -> dict[str, Any]:
    """The same without a governor, for comparison: MySQL itself refuses what is too much."""
    with opener(Environment.current()).open(Fence(), "", None) as connection:
        return run(connection, errand, holding(None, asked_ms=asked_ms, acquired_ms=now_ms()))


def explained(error: GovernorError | err.MySQLError, *, acquire_ms: int) -> dict[str, Any]:
    """A refusal or an error as an answer, for callers that asked for one."""
    if isinstance(error, NoConnectionsLeft):
        counts = {"retry_after_ms": error.retry_after_ms, "allowed": error.allowed, "in_use": error.in_use}
        return {"outcome": "refused", "statusCode": 429, "acquire_ms": acquire_ms, **counts}
    number = error.args[0] if isinstance(error, err.MySQLError) and error.args else None
    return {"outcome": "error", "statusCode": 503, "reason": type(error).__name__, "mysql_error": number}
