"""The limits of a session, the times that follow from them, and the statement that sets them."""

import dataclasses
import math

import pytest

from connection_governor.database.fence import Fence
from connection_governor.errors import InvalidRequest
from connection_governor.mysql.fence import SessionStart, set_statement


def test_the_times_are_those_of_the_design() -> None:
    """A shorter lease could be granted again while MySQL still counts the old session: one too many."""
    fence = Fence(idle_seconds=5, statement_seconds=8.0, write_seconds=2, lock_seconds=4)
    assert fence.idle_ms == 5_000
    assert fence.statement_bound_ms == 8_000 + 1_000 + 2_000
    assert fence.margin_ms == 11_000 + 5_000
    assert fence.guard_ms == 11_000 + 2 * 5_000
    assert fence.required_margin_ms(may_freeze=False) == fence.margin_ms
    assert fence.required_margin_ms(may_freeze=True) == fence.guard_ms


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1, 2, 3.5, 8.0, 60, 3_600])
def test_by_default_waits_for_locks_are_within_the_bound_on_a_statement(seconds: float) -> None:
    """On MySQL nothing else bounds a write that waits: it would outlive the lease."""
    fence = Fence(statement_seconds=seconds)
    assert fence.lock_wait_seconds >= 1
    assert 2 * fence.lock_wait_seconds * 1_000 <= fence.statement_bound_ms


def test_longer_waits_for_locks_lengthen_the_bound() -> None:
    """The margin of the lease has to follow what the session was really allowed."""
    assert Fence(statement_seconds=1.0, write_seconds=1, lock_seconds=30).statement_bound_ms == 60_000 + 1_000


def test_the_client_waits_longer_for_an_answer_than_the_server_works_on_it() -> None:
    """A client that disconnects first leaves a statement running without an owner."""
    for fence in (Fence(), Fence(statement_seconds=0.1), Fence(lock_seconds=20)):
        assert fence.read_seconds * 1_000 > fence.statement_bound_ms


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("idle_seconds", "write_seconds", "lock_seconds") for value in (0, -1, 1.5, "5")),
        *(("statement_seconds", value) for value in (0, -1, math.nan, math.inf, "8", None, True, 3_601)),
        ("idle_seconds", True),
        ("idle_seconds", 3_601),
        ("write_seconds", None),
    ],
)
def test_a_limit_that_is_none_is_refused_by_name(field: str, value: object) -> None:
    """Servers take 0 for "no limit": the fence would silently be down."""
    with pytest.raises(InvalidRequest) as refused:
        dataclasses.replace(Fence(), **{field: value})  # type: ignore[arg-type] # bad on purpose
    assert refused.value.field == field


def test_the_settings_are_data_for_any_driver() -> None:
    """A worker with another driver sets these by itself, and must not miss one."""
    fence = Fence(idle_seconds=3, statement_seconds=2.5, write_seconds=1, lock_seconds=1)
    common = {
        "wait_timeout": 3,
        "net_write_timeout": 1,
        "net_read_timeout": 1,
        "lock_wait_timeout": 1,
        "innodb_lock_wait_timeout": 1,
    }
    assert fence.session_settings(is_mariadb=True) == common | {"max_statement_time": 2.5}
    assert fence.session_settings(is_mariadb=False) == common | {"max_execution_time": 2_500}


def test_one_statement_sets_everything() -> None:
    """Two statements would be a second round trip at each opening, and a moment half fenced."""
    start = SessionStart(collation="utf8mb4_bin", autocommit=True, time_zone="+00:00", sql_mode="ANSI,TRADITIONAL")
    assert set_statement(Fence(), start, is_mariadb=False) == (
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin, wait_timeout = 5, net_write_timeout = 2, net_read_timeout = 2, "
        "lock_wait_timeout = 4, innodb_lock_wait_timeout = 4, max_execution_time = 8000, autocommit = 1, "
        "time_zone = '+00:00', sql_mode = 'ANSI,TRADITIONAL'"
    )


def test_what_the_caller_left_to_the_server_is_left_alone() -> None:
    """A worker that relies on the server's time zone or SQL mode must find it."""
    statement = set_statement(Fence(), SessionStart(autocommit=None), is_mariadb=True)
    assert statement.startswith("SET NAMES utf8mb4, ")
    assert not any(name in statement for name in ("autocommit", "time_zone", "sql_mode", "COLLATE"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("charset", "utf8mb4; DROP TABLE x"),
        ("charset", ""),
        ("charset", None),
        ("collation", "a b"),
        ("time_zone", "'"),
        ("time_zone", ""),
        ("sql_mode", "ANSI', autocommit = '1"),
    ],
)
def test_a_value_other_than_a_plain_word_never_reaches_the_statement(field: str, value: object) -> None:
    """A setting out of a configuration could otherwise carry SQL of its own."""
    with pytest.raises(InvalidRequest) as refused:
        dataclasses.replace(SessionStart(), **{field: value})  # type: ignore[arg-type] # bad on purpose
    assert refused.value.field == field
