"""Bad input of every kind: a clear answer that names the field, and nothing written, in every world."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.schemas import OTHER, answer, changes_nothing, granted

if TYPE_CHECKING:
    from tests.support.worlds import World

HUGE = 10**40
NOT_WHOLE_NUMBERS = ["1", 1.0, 1.5, True, False, None, [], {}, [1], float("nan"), float("inf")]
NOT_NAMES = ["", " ", "a" * 33, "or ders", "orders#0", "orders\n", "größe", "a/b", 5, True, None, [], {"a": 1}]


@pytest.fixture
def world(open_world: World) -> World:
    """Return a budget of three connections in one shard."""
    open_world.operations.set_budget(open_world.database, 3)
    return open_world


@pytest.mark.parametrize("request_", [None, [], "acquire", 5, True, 1.5, [{"action": "acquire"}]], ids=repr)
def test_a_request_other_than_an_object_is_refused(world: World, request_: object) -> None:
    """A test event typed by hand must be answered with words, not with a stack trace."""

    def act() -> None:
        assert answer(world, request_)["error"]["field"] == "request"

    changes_nothing(world, act)


@pytest.mark.parametrize("action", ["", "Acquire", "delete", "answer", "__init__", 5, None, [], {}, True], ids=repr)
def test_an_unknown_action_is_refused(world: World, action: object) -> None:
    """A mistyped release would leave its connection in use, without an error."""

    def act() -> None:
        error = answer(world, {"action": action, "database": world.database})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "action")

    changes_nothing(world, act)


def test_no_action_at_all_is_refused(world: World) -> None:
    """The same for a field that was forgotten."""
    assert answer(world, {"database": world.database})["error"]["field"] == "action"


@pytest.mark.parametrize("action", ["acquire", "status", "renew", "release"])
def test_an_unknown_database_has_a_code_of_its_own(world: World, action: str) -> None:
    """Correcting the payload does not help: a budget must be set."""
    world.operations.set_budget(OTHER, 1)
    lease = granted(world) | {"database": "nobodys"}

    def act() -> None:
        given_answer = answer(world, {"action": action, "database": "nobodys", "lease": lease})
        if action == "release":
            assert given_answer == {"released": False, "reason": "not_held"}
        else:
            assert given_answer["error"]["code"] == "unknown_database"
            assert "nobodys" in given_answer["error"]["message"]

    if action == "release":  # asked of the store, which has no such item: a conditional write that cannot succeed
        act()
    else:
        changes_nothing(world, act)
    assert world.settings("nobodys") is None


@pytest.mark.parametrize("name", NOT_NAMES, ids=repr)
def test_a_database_name_out_of_bounds_is_refused_by_name(world: World, name: object) -> None:
    """`orders#0` is a shard's key: taken for a database, its item would be overwritten."""

    def act() -> None:
        for action in ("acquire", "status"):
            error = answer(world, {"action": action, "database": name})["error"]
            assert (error["code"], error["field"]) == ("invalid_request", "database")

    changes_nothing(world, act)


@pytest.mark.parametrize("count", [0, -1, 4, HUGE, -HUGE, *NOT_WHOLE_NUMBERS], ids=repr)
def test_a_number_of_connections_out_of_bounds_is_refused_by_name(world: World, count: object) -> None:
    """A negative number would add to the counter: a budget without end."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": world.database, "connections": count})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "connections")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    "holder", ["", "a" * 65, "line\nbreak", "nul\0", "tab\t", "\ud800", 5, True, [], {}], ids=ascii
)
def test_a_holder_out_of_bounds_is_refused_by_name(world: World, holder: object) -> None:
    """It goes to the log: a line break in it would forge lines there; an empty one is taken for anonymous."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": world.database, "holder": holder})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "holder")

    changes_nothing(world, act)


@pytest.mark.parametrize("holder", ["größe/1", "日本語の関数", "/", "//", "a b", "x" * 64, "🙂", "-", "é"], ids=ascii)
def test_an_odd_holder_is_stored_as_a_tag_of_at_most_seven_plain_bytes(world: World, holder: str) -> None:
    """A tag of more bytes would push the shard over 1 KB, and each write would cost double."""
    lease = granted(world, holder=holder)
    (entry,) = answer(world, {"action": "status", "database": world.database})["leases"]
    assert 1 <= len(entry["holder"].encode()) <= 7
    assert lease["holder"] == holder
    assert answer(world, {"action": "release", "lease": lease}) == {"released": True}


@pytest.mark.parametrize(
    "lease_id", ["", "short", "a" * 17, "has space", "has.dots", "lease-é1", 12345678, True, [], {}]
)
def test_a_lease_id_out_of_bounds_is_refused_by_name(world: World, lease_id: object) -> None:
    """A dot in it would be taken for a path inside the item."""

    def act() -> None:
        error = answer(world, {"action": "acquire", "database": world.database, "lease_id": lease_id})["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "lease_id")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    "length", [0, -1, 999, 3_600_001, HUGE, *[x for x in NOT_WHOLE_NUMBERS if x is not None]], ids=repr
)
@pytest.mark.parametrize("action", ["acquire", "renew"])
def test_a_length_out_of_bounds_is_refused_by_name(world: World, action: str, length: object) -> None:
    """A lease without end is a connection that is lost."""
    lease = granted(world)

    def act() -> None:
        error = answer(world, {"action": action, "database": world.database, "lease": lease, "lease_ms": length})[
            "error"
        ]
        assert (error["code"], error["field"]) == ("invalid_request", "lease_ms")

    changes_nothing(world, act)


@pytest.mark.parametrize("ahead_ms", [-65_000, 3_665_000, HUGE, -HUGE])
def test_an_end_far_from_now_is_refused_by_name(world: World, ahead_ms: int) -> None:
    """It comes from the caller's clock: one that is a day ahead would hold its connection for a day."""

    def act() -> None:
        request = {"action": "acquire", "database": world.database, "expires_at_ms": world.clock.now + ahead_ms}
        assert answer(world, request)["error"]["field"] == "expires_at_ms"

    changes_nothing(world, act)


@pytest.mark.parametrize("waiting", [0, 1, "true", [], {}])
def test_waiting_is_true_or_false(world: World, waiting: object) -> None:
    """A string taken for true would hide refusals from the metric."""

    def act() -> None:
        request = {"action": "acquire", "database": world.database, "waiting": waiting}
        assert answer(world, request)["error"]["field"] == "waiting"

    changes_nothing(world, act)


@pytest.mark.parametrize("lease", [None, [], "lease-01", 5, True, {}], ids=repr)
@pytest.mark.parametrize("action", ["renew", "release"])
def test_a_wrong_lease_is_refused_by_name(world: World, action: str, lease: object) -> None:
    """A worker that sends the whole answer in place of the lease must get an error that says it."""

    def act() -> None:
        error = answer(world, {"action": action, "lease": lease})["error"]
        assert error["code"] == "invalid_request"
        assert error["field"].startswith("lease")

    changes_nothing(world, act)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lease_id", "short"),
        ("database", "or ders"),
        ("holder", ""),
        ("connections", 0),
        ("connections", True),
        ("fence", "1"),
        ("fence", -1),
        ("expires_at_ms", -1),
        ("expires_at_ms", 64**7),
        ("expires_at_ms", 1.5),
        ("shard", -1),
        ("shard", 4_096),
        ("shard", "0"),
    ],
)
@pytest.mark.parametrize("action", ["renew", "release"])
def test_a_lease_with_one_odd_field_is_refused_by_its_name(
    world: World, action: str, field: str, value: object
) -> None:
    """A lease that went through a lossy language must not come near the store."""
    lease = granted(world) | {field: value}

    def act() -> None:
        error = answer(world, {"action": action, "lease": lease})["error"]
        assert error["code"] == "invalid_request"
        assert error["field"].rpartition(".")[2] == field

    changes_nothing(world, act)


@pytest.mark.parametrize("field", ["lease_id", "database", "holder", "connections", "expires_at_ms", "shard"])
def test_a_lease_with_a_field_missing_is_refused_by_its_name(world: World, field: str) -> None:
    """The whole lease is needed: the exact stored string is compared."""
    lease = granted(world)
    del lease[field]

    def act() -> None:
        assert answer(world, {"action": "release", "lease": lease})["error"]["field"] == f"lease.{field}"

    changes_nothing(world, act)
