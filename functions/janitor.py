"""The janitor's function: one round each minute, and an operator's actions in between."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor.metrics import Reporter
from connection_governor.server.janitor import Attention, Janitor
from connection_governor.server.mysql_watch import MySQLWatch
from connection_governor.server.operator_requests import OperatorRequests
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from connection_governor.wiring.mysql import opener
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="janitor")


@cache
def kept() -> tuple[MySQLWatch, Attention]:
    """Return what this environment keeps from round to round: the session to MySQL, and when to look."""
    environment = Environment.current()
    watch = MySQLWatch(partial(opener, environment), lambda: environment.required("DB_WORKER_USERS").split(","))
    return watch, Attention()


def handler(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Do one round, or an operator's action. A round raises the error that kept it from MySQL: an alarm counts it."""
    environment = Environment.current()
    database, (watch, attention) = environment.required("GOVERNOR_DATABASE"), kept()
    if "action" in event:
        asked = OperatorRequests(
            operations(environment), watch, database, lambda message, fields: logger.info(message, extra=fields)
        )
        return asked.answer(event)
    done = Janitor(operations(environment), watch, Reporter(), SYSTEM_CLOCK, attention).round(database)
    if done.blind or not done.status.leases():
        watch.close()
    if done.blind:
        logger.error("MySQL could not be watched", extra={"error": str(done.blind.args)})
        raise done.blind
    return {"in_use": done.status.in_use, "reclaimed": len(done.reclaimed), "killed": len(done.killed)}
