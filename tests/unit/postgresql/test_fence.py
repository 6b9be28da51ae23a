"""The fence of a PostgreSQL session as its start-up packet carries it, and the options that a caller may give."""

from __future__ import annotations

from typing import Any

import pytest

from connection_governor.database.fence import Fence
from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.fence import limits, session_options, start_options


def test_every_limit_of_the_fence_is_set() -> None:
    """A limit that is missing leaves one way in which a vanished holder keeps its session."""
    fence = Fence(idle_seconds=7, statement_seconds=2.5, write_seconds=3, lock_seconds=4)
    assert limits(fence) == {
        "idle_session_timeout": "7000",
        "idle_in_transaction_session_timeout": "7000",
        "statement_timeout": "2500",
        "lock_timeout": "4000",
        "client_connection_check_interval": "100",
        "tcp_user_timeout": "3000",
        "tcp_keepalives_idle": "7",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
    }


def test_no_limit_is_none() -> None:
    """PostgreSQL takes 0 for "no limit"."""
    shortest = Fence(idle_seconds=1, statement_seconds=0.001, write_seconds=1, lock_seconds=1)
    assert "0" not in limits(shortest).values()


def test_values_are_escaped_as_the_server_reads_them() -> None:
    """A value with a space would be read as another option: it could switch the fence off."""
    text = start_options(Fence(), {"search_path": r"a, b\c -c statement_timeout=0"})
    assert text.startswith(r"-c search_path=a,\ b\\c\ -c\ statement_timeout=0 -c idle_session_timeout=5000 ")


def test_the_fence_comes_last() -> None:
    """Of two values for one name the server takes the last."""
    assert start_options(Fence(), {"TimeZone": "UTC"}).index("TimeZone") < start_options(
        Fence(), {"TimeZone": "UTC"}
    ).index("statement_timeout")


@pytest.mark.parametrize("name", [*limits(Fence()), "Statement_Timeout", "application_name", "client_encoding"])
def test_a_caller_cannot_set_what_the_governor_sets(name: str) -> None:
    """A caller would leave the fence without knowing it."""
    with pytest.raises(InvalidRequest, match="set by the governor"):
        session_options({"settings": {name: "1"}})


@pytest.mark.parametrize("name", ["", "a b", "a=b", "-c", "a;b"])
def test_a_name_must_be_one(name: str) -> None:
    """It would be read as another option."""
    with pytest.raises(InvalidRequest) as refused:
        session_options({"settings": {name: "1"}})
    assert refused.value.field == "settings"


@pytest.mark.parametrize("option", ["host", "password", "options", "conninfo", "charset"])
def test_an_option_that_is_not_the_callers_is_refused_by_its_name(option: str) -> None:
    """It would be lost without a word, or replace what the governor sets."""
    with pytest.raises(InvalidRequest) as refused:
        session_options({option: "x"})
    assert refused.value.field == option


def test_options_are_taken_as_they_are() -> None:
    """Two bodies with the same options share a kept session: they are compared."""
    given: dict[str, Any] = {"autocommit": True, "settings": {"work_mem": 8}}
    assert session_options(given) == {"autocommit": True, "settings": {"work_mem": "8"}}
    assert session_options({"autocommit": True}) == {"autocommit": True, "settings": {}}
