"""The janitor's function: one round each minute."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor.metrics import Reporter
from connection_governor.server.janitor import Janitor
from connection_governor.server.mysql_watch import MySQLWatch
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from connection_governor.wiring.mysql import opener
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="janitor")


def handler(_event: object, _context: LambdaContext) -> dict[str, Any]:
    """Do one round, and raise the error that kept it from watching MySQL: an alarm counts failed rounds."""
    environment = Environment.current()
    watch = MySQLWatch(partial(opener, environment), lambda: environment.required("DB_WORKER_USERS").split(","))
    with closing(watch):
        done = Janitor(operations(environment), watch, Reporter(), SYSTEM_CLOCK).round(
            environment.required("GOVERNOR_DATABASE")
        )
    if done.blind:
        logger.error("MySQL could not be watched", extra={"error": str(done.blind.args)})
        raise done.blind
    return {"in_use": done.status.in_use, "reclaimed": len(done.reclaimed), "killed": len(done.killed)}
