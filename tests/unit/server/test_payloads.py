"""The function's answers where its service does what no store makes it do."""

from __future__ import annotations

import pytest

from connection_governor.core.codec import lease_payload
from connection_governor.core.memory import MemoryStore
from connection_governor.errors import (
    GovernorUnavailable,
    InvalidRequest,
    UnknownDatabase,
)
from connection_governor.server.payloads import lease_of
from tests.support.worlds import World


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 3)
    return world


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest("n", "is odd"), {"code": "invalid_request", "field": "n", "message": "is odd"}),
        (GovernorUnavailable("away"), {"code": "unavailable", "message": "away"}),
    ],
)
def test_each_error_has_its_code(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: dict[str, str]
) -> None:
    """Workers in other languages branch on it."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(world.service, "acquire", fail)
    assert world.requests.answer({"action": "acquire", "database": "orders"}) == {"error": expected}
    assert world.requests.answer({"incrementCounter": True, "RDBMSName": "orders"}) is False


def test_an_unknown_database_names_the_command_that_helps(world: World) -> None:
    """The reader of the log at night learns how to correct it."""
    found = world.requests.answer({"action": "status", "database": "nobodys"})
    assert isinstance(found, dict)
    assert found["error"] == {"code": "unknown_database", "message": str(UnknownDatabase("nobodys"))}


def test_a_mistake_of_our_own_is_not_hidden(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda counts it as an error, and the alarm fires: answered as an outage it would be retried without end."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(world.service, "acquire", fail)
    with pytest.raises(ZeroDivisionError):
        world.requests.answer({"action": "acquire", "database": "orders"})


def test_a_lease_goes_through_its_payload_unchanged(world: World) -> None:
    """What acquire answered is what release must be given."""
    lease = world.lend(connections=2, holder="größe/1")
    assert lease_of(lease_payload(lease)) == lease


@pytest.mark.parametrize("name", ["lease_id", "database", "holder", "connections", "fence", "expires_at_ms", "shard"])
def test_a_field_of_a_lease_is_named_as_one(world: World, name: str) -> None:
    """`connections` alone would send the reader to the request, which has none."""
    wrong = {**lease_payload(world.lend()), name: []}
    with pytest.raises(InvalidRequest) as refused:
        lease_of(wrong)
    assert refused.value.field == f"lease.{name}"


def test_metrics_count_the_functions_refusals_once(world: World) -> None:
    """A bundled client counts its own: `waiting` says that one is behind this."""
    world.lend(connections=3)
    world.requests.answer({"action": "acquire", "database": "orders"})
    assert sum('"NoConnLeftError":1' in line for line in world.journal.lines) == 1
    for waiting in (True, False):
        world.requests.answer({"action": "acquire", "database": "orders", "waiting": waiting})
    assert sum('"NoConnLeftError":1' in line for line in world.journal.lines) == 1
