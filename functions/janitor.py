"""The janitor's function: one round each minute, and an operator's actions in between."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor.metrics import Reporter
from connection_governor.server.janitor import Attention, Janitor
from connection_governor.server.operator_requests import OperatorRequests
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, watch
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from connection_governor.server.ports import KeptWatch

logger = Logger(service="janitor")


@cache
def kept() -> tuple[KeptWatch, Attention]:
    """Return what this environment keeps from round to round: the session to the database, and when to look."""
    return watch(Environment.current()), Attention()


def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Do one round, or an operator's action. A round raises what kept it from the database: an alarm counts it."""
    environment = Environment.current()
    database, (server, attention) = environment.required("GOVERNOR_DATABASE"), kept()
    if "action" in event:
        asked = OperatorRequests(
            operations(environment), server, database, lambda message, fields: logger.info(message, extra=fields)
        )
        return asked.answer(event)
    done = Janitor(operations(environment), server, Reporter(), SYSTEM_CLOCK, attention).round(database)
    if done.blind or not done.status.leases():
        server.close()
    if done.blind:
        logger.error("the database could not be watched", extra={"kind": server.name, "error": str(done.blind.args)})
        raise done.blind
    return {"in_use": done.status.in_use, "reclaimed": len(done.reclaimed), "killed": len(done.killed)}
