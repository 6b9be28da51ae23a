"""The template's custom resource: seeds the database and sets its budget. Never logs the answer's URL or a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger

from connection_governor import wiring
from connection_governor.system import SYSTEM_CLOCK
from custom_resource import NEVER_MADE, Answer
from seeding import Seeder, Wanted, explain, whereabouts

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = Logger(service="seed")


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Carry out a create, update or delete, and answer whatever happens."""
    answer = Answer(event)
    with answer.within(context.get_remaining_time_in_millis() / 1000 - 5):
        try:
            answer.succeed(carry_out(event))
            logger.info("seeded", extra={"request": event["RequestType"]})
        except Exception as error:  # noqa: BLE001  # an answer must go out, else the stack waits for its time-out
            told = {"request": event.get("RequestType"), "error": type(error).__name__, "at": whereabouts(error)}
            logger.error("failed", extra=told)  # noqa: TRY400  # a traceback may quote a secret
            answer.fail(explain(error))


def carry_out(event: dict[str, Any]) -> str:
    """Do what is asked; returns the physical id, which never changes."""
    if event.get("PhysicalResourceId") == NEVER_MADE:
        return NEVER_MADE
    here = wiring.Environment.current()
    seeder = Seeder(wiring.secret_fetcher(here), wiring.operations(here), SYSTEM_CLOCK)
    wanted = Wanted.of(event["ResourceProperties"])
    if event["RequestType"] == "Delete":
        seeder.remove(wanted)
    else:
        before = event.get("OldResourceProperties")
        if not seeder.make(wanted, replaces=Wanted.of(before) if before else None):
            logger.warning(
                "the administrator may not grant the right to end sessions: the janitor will only count them"
            )
    return event.get("PhysicalResourceId") or f"seed-of-{event['StackId'].rpartition('/')[2]}"
