"""Maps CloudFormation's create, update and delete to the seeder, and its failures to words that hold no secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connection_governor.errors import GovernorError
from connection_governor.server.custom_resource import NEVER_MADE
from connection_governor.server.ports import SeedError
from connection_governor.server.seed_properties import SeedProperties

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.server.seed import Seeder


@dataclass(frozen=True, slots=True)
class Seeded:
    """The result of a request of CloudFormation.

    Attributes:
        physical_id: the resource's id, which never changes: another id would mean a replacement.
        notes: what an operator should know although it succeeded.
    """

    physical_id: str
    notes: tuple[str, ...] = ()


def carry_out(event: Mapping[str, Any], seeder: Callable[[], Seeder]) -> Seeded:
    """Carry out CloudFormation's create, update or delete.

    Args:
        event: the request.
        seeder: returns the seeder; not called if nothing was ever created.
    """
    if event.get("PhysicalResourceId") == NEVER_MADE:
        return Seeded(NEVER_MADE)
    physical_id = event.get("PhysicalResourceId") or f"seed-of-{event['StackId'].rpartition('/')[2]}"
    wanted, before = SeedProperties.of(event["ResourceProperties"]), event.get("OldResourceProperties")
    if event["RequestType"] == "Delete":
        seeder().remove(wanted)
        return Seeded(physical_id)
    return Seeded(physical_id, seeder().make(wanted, replaces=SeedProperties.of(before) if before else None))


def explain(error: Exception) -> str:
    """Return why it failed, without a secret: a database's messages quote statements, so only their code is shown."""
    if isinstance(error, SeedError | GovernorError):
        return str(error)
    code = _code(error)
    return f"{type(error).__name__}{f' {code}' if code else ''}, see the function's log"


def _code(error: Exception) -> object:
    """Return the code of a driver's error: PyMySQL's begin with their number, psycopg's carry `sqlstate`.

    PyMySQL 1.2's carry a `sqlstate` as well, which many errors share: 42000 stands for 1226 and for a wrong statement.
    """
    number = error.args[0] if error.args and isinstance(error.args[0], int) else None
    return number or getattr(error, "sqlstate", None)
