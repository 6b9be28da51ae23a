"""The limits of every public value: the accepted ones, and the field named for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core import checks
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def field_of(check: Callable[[object], object], value: object) -> str:
    with pytest.raises(InvalidRequest) as refused:
        check(value)
    assert refused.value.message
    return refused.value.field


@pytest.mark.parametrize("name", ["o", "orders", "Prod_MySQL", "a-b_C9", "x" * 32])
def test_database_names_of_the_contract_are_accepted(name: str) -> None:
    """The published sample's name must go through unchanged."""
    assert checks.database_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 33, "a#0", "a b", "a.b", "ä", "a\n", "\na", "a/b", None, 1, True, b"a", ["a"]]
)
def test_other_database_names_are_refused(name: object) -> None:
    """`a#0` is the key of a shard."""
    assert field_of(checks.database_name, name) == "database"


@pytest.mark.parametrize("value", ["12345678", "aB3-_zZ9", "x" * 16])
def test_lease_ids_of_the_contract_are_accepted(value: str) -> None:
    """Any URL-safe random string of a fair length."""
    assert checks.lease_id(value) == value


@pytest.mark.parametrize("value", ["", "1234567", "x" * 17, "1234567.", "1234567\n", "1234567ä", None, 12345678])
def test_other_lease_ids_are_refused(value: object) -> None:
    """A dot is a path inside the item; a short one is soon used twice."""
    assert field_of(checks.lease_id, value) == "lease_id"


@pytest.mark.parametrize("name", ["a", "checkout/2f1c", "größe", "x" * 64, "日本", "a b"])
def test_holders_of_the_contract_are_accepted(name: str) -> None:
    """Whatever names an environment, and can be read in a log."""
    assert checks.holder_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x00", "a\u2028b", "\ud800", None, 5, b"a"], ids=ascii)
def test_other_holders_are_refused(name: object) -> None:
    """A line break in it would forge a line of the log."""
    assert field_of(checks.holder_name, name) == "holder"


@given(number=st.integers(), least=st.integers(), most=st.integers())
def test_a_whole_number_is_within_its_bounds_or_refused(number: int, least: int, most: int) -> None:
    """No number past a bound comes through, however large."""
    if least <= number <= most:
        assert checks.whole_number("n", number, least=least, most=most) == number
    else:
        assert field_of(lambda value: checks.whole_number("n", value, least=least, most=most), number) == "n"


@pytest.mark.parametrize("number", [True, False, 1.0, "1", None, [], {}, 1j, float("nan"), float("inf")], ids=repr)
def test_what_only_looks_like_a_number_is_refused(number: object) -> None:
    """True is 1 in Python, and a float would be stored as something that is never equal again."""
    assert field_of(checks.connection_count, number) == "connections"
    assert field_of(checks.lease_length_ms, number) == "lease_ms"


@pytest.mark.parametrize(("count", "accepted"), [(0, False), (1, True), (4_095, True), (4_096, False), (-1, False)])
def test_connections_are_from_one_to_what_a_record_can_say(count: int, accepted: bool) -> None:
    """Zero would be a lease of nothing, and 4,096 would wrap round to it."""
    if accepted:
        assert checks.connection_count(count) == count
    else:
        assert field_of(checks.connection_count, count) == "connections"


@pytest.mark.parametrize(("length", "accepted"), [(999, False), (1_000, True), (3_600_000, True), (3_600_001, False)])
def test_leases_last_from_a_second_to_an_hour(length: int, accepted: bool) -> None:
    """A shorter lease expires before it is answered; a longer one blocks its slot for too long after a crash."""
    if accepted:
        assert checks.lease_length_ms(length) == length
    else:
        assert field_of(checks.lease_length_ms, length) == "lease_ms"


@pytest.mark.parametrize(("seconds", "expected"), [(0, 0), (0.25, 250), (2, 2_000), (3_600_000, 3_600_000_000)])
def test_a_time_out_is_in_seconds(seconds: float, expected: int) -> None:
    """As everywhere else in Python."""
    assert checks.timeout_ms(seconds) == expected


@pytest.mark.parametrize("seconds", [-1, -0.001, True, "2", None, float("nan"), float("inf"), 1e300, []], ids=repr)
def test_other_time_outs_are_refused(seconds: object) -> None:
    """A wait without end would hang a worker until Lambda kills it."""
    assert field_of(checks.timeout_ms, seconds) == "timeout"
