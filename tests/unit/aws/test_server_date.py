"""The `Date` header, read by hand."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.aws.server_date import date_ms


@given(st.integers(0, 4_102_444_800))
def test_every_date_is_read_as_the_standard_library_writes_it(seconds: int) -> None:
    """On the 29th of February a right clock would be taken for a wrong one, and every acquire refused."""
    assert date_ms(formatdate(seconds, usegmt=True)) == seconds * 1_000


@pytest.mark.parametrize(
    "header", ["", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT"]
)
def test_a_wrong_date_is_ignored(header: str) -> None:
    """A proxy's odd header would end every request with a ValueError."""
    assert date_ms(header) is None


def test_another_zone_says_nothing() -> None:
    """A date in local time would be taken for a clock that is hours off."""
    assert date_ms("Sun, 06 Nov 1994 08:49:37 CET") is None
