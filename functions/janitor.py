"""The janitor, each minute: reclaims, ends sessions whose lease is over, and publishes the gauges without traffic."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger
from pymysql import err

from connection_governor.errors import GovernorError
from connection_governor.metrics import Reporter
from connection_governor.server.janitor import Janitor
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, operations
from watching import watching

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="janitor")


def handler(_event: object, _context: LambdaContext) -> dict[str, Any]:
    """One round. Where MySQL or its secret cannot be reached the leases are looked after, and then it fails visibly."""
    here = Environment.current()
    with ExitStack() as stack:
        blind: err.MySQLError | GovernorError | None = None
        watch = None
        try:
            watch = stack.enter_context(watching(here))
        except (err.MySQLError, GovernorError) as unreachable:
            blind = unreachable
        done = Janitor(operations(here), watch, Reporter(), SYSTEM_CLOCK).round(here.required("GOVERNOR_DATABASE"))
    blind = blind or done.blind
    if blind:
        logger.error("MySQL could not be watched", extra={"error": str(blind.args)})
        raise blind
    return {"in_use": done.status.in_use, "reclaimed": len(done.reclaimed), "killed": len(done.killed)}
