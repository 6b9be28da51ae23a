"""The template's custom resource: seeds the database and sets its budget. Never logs the answer's URL or a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor.server.custom_resource import ResourceAnswer, whereabouts
from connection_governor.server.seed import Seeder
from connection_governor.server.seed_request import carry_out, explain
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, administration
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="seed")
KEEP_ACTIVE = "KeepActive"
"""The daily event that only keeps Lambda from taking the idle function's network interface away."""


def seeder() -> Seeder:
    """Return the seeder of the database that the environment names."""
    environment = Environment.current()
    return Seeder(administration(environment), operations(environment), SYSTEM_CLOCK)


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Carry out a create, update or delete, and answer whatever happens."""
    if event["RequestType"] == KEEP_ACTIVE:
        return
    answer = ResourceAnswer(event)
    with answer.within(context.get_remaining_time_in_millis() / 1000 - 5):
        try:
            seeded = carry_out(event, seeder)
            answer.succeed(seeded.physical_id)
            logger.info("seeded", extra={"request": event["RequestType"]})
            for note in seeded.notes:
                logger.warning(note)
        except Exception as error:  # noqa: BLE001  # an answer must go out, else the stack waits for its time-out
            details = {"request": event.get("RequestType"), "error": type(error).__name__, "at": whereabouts(error)}
            logger.error("failed", extra=details)  # noqa: TRY400  # a traceback may quote a secret
            answer.fail(explain(error))
