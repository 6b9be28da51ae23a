"""What CloudFormation's requests come to, before any server is asked."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest
from psycopg import errors
from pymysql import err

from connection_governor.server.custom_resource import NEVER_MADE
from connection_governor.server.mysql.administration import ONLY_COUNTED
from connection_governor.server.seed import Seeder
from connection_governor.server.seed_properties import SeedProperties
from connection_governor.server.seed_request import carry_out, explain

Event = dict[str, Any]


class RecordingSeeder(Seeder):
    """Notes what it is asked for, and says what it is given to say."""

    def __init__(self, *notes: str) -> None:
        self.notes = notes
        self.asked: list[tuple[object, ...]] = []

    def make(self, wanted: SeedProperties, *, replaces: SeedProperties | None = None) -> tuple[str, ...]:
        """Make nothing."""
        self.asked.append(("make", wanted.allowed, replaces and replaces.allowed))
        return self.notes

    def remove(self, wanted: SeedProperties) -> None:
        """Remove nothing."""
        self.asked.append(("remove", wanted.allowed))


def never() -> NoReturn:
    """Fail: the test expects no seeder."""
    raise AssertionError("a seeder was made")


def test_deleting_what_was_never_made_touches_nothing(request_to_create: Event) -> None:
    """The rollback of a stack whose database cannot be reached fails, and must be cleared by hand."""
    event = {**request_to_create, "RequestType": "Delete", "PhysicalResourceId": NEVER_MADE}
    assert carry_out(event, never).physical_id == NEVER_MADE


@pytest.mark.parametrize("kind", ["Update", "Delete"])
def test_the_physical_id_never_changes(kind: str, request_to_create: Event) -> None:
    """A changed id means replacement, and CloudFormation deletes the seed of the database that is in use."""
    event = {**request_to_create, "RequestType": kind, "PhysicalResourceId": "seed-of-an-older-stack"}
    assert carry_out(event, RecordingSeeder).physical_id == "seed-of-an-older-stack"


def test_a_new_seed_is_named_by_its_stack(request_to_create: Event) -> None:
    """Two stacks' seeds have one id."""
    assert carry_out(request_to_create, RecordingSeeder).physical_id == "seed-of-0a1b2c"


def test_each_request_asks_for_one_thing(request_to_create: Event) -> None:
    """An update forgets which users it replaces, or a delete makes what it should remove."""
    seeder = RecordingSeeder()
    old = {**request_to_create["ResourceProperties"], "Allowed": "3"}
    carry_out(request_to_create, lambda: seeder)
    carry_out({**request_to_create, "RequestType": "Update", "OldResourceProperties": old}, lambda: seeder)
    carry_out({**request_to_create, "RequestType": "Delete"}, lambda: seeder)
    assert seeder.asked == [("make", 7, None), ("make", 7, 3), ("remove", 7)]


def test_a_missing_right_is_noted(request_to_create: Event) -> None:
    """An operator does not learn that the janitor cannot end sessions."""
    assert carry_out(request_to_create, lambda: RecordingSeeder(ONLY_COUNTED)).notes == (ONLY_COUNTED,)
    assert carry_out(request_to_create, RecordingSeeder).notes == ()


def test_an_error_is_explained_by_its_drivers_code() -> None:
    """An operator reads 42000, which many errors of MySQL share, or nothing."""
    denied = err.OperationalError(1045, "Access denied for user 'secret'")
    denied.sqlstate = "28000"  # as PyMySQL 1.2 sets it
    assert explain(denied) == "OperationalError 1045, see the function's log"
    assert explain(errors.TooManyConnections("for role 'secret'")) == "TooManyConnections 53300, see the function's log"


def test_the_opening_rate_is_read_and_is_none_unless_it_is_named(request_to_create: Event) -> None:
    """A stack of before the parameter existed would fail to update, or would slow its workers down."""
    properties = request_to_create["ResourceProperties"]
    assert SeedProperties.of(properties).opens_per_second == 0
    limited = SeedProperties.of({**properties, "OpensPerSecond": "100", "OpenBurst": "1000"})
    assert (limited.opens_per_second, limited.open_burst) == (100, 1_000)
