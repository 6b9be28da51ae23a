"""The governor function: acquire, renew, release and status of leases, and the published sample's payload."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor.core.deadline import RESERVE_MS, Deadline
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from connection_governor.wiring.table import requests as requests_of

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from connection_governor.server.payloads import Requests

logger = Logger(service="governor")


@cache
def requests() -> Requests:
    """Return what answers requests here; made at the first request, so that importing needs no wiring."""
    return requests_of(Environment.current())


def handler(event: object, context: LambdaContext) -> dict[str, Any] | bool:
    """Answer one request before Lambda stops the invocation; a caller's mistake is also an answer."""
    answer = requests().answer(event, Deadline.of_invocation(context, SYSTEM_CLOCK).before(RESERVE_MS))
    if isinstance(answer, dict) and "error" in answer:
        logger.warning("not carried out", extra={"error": answer["error"]})
    return answer
