"""How an acquire waits, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.client.backoff import FIRST_CEILING_MS, LAST_CEILING_MS, Wait
from connection_governor.core.deadline import Deadline
from tests.support.virtual import SetEntropy, VirtualClock


def pauses(wait: Wait, clock: VirtualClock, retry_after_ms: int = 20, most: int = 50) -> list[float]:
    """Return all the pauses until it gives up."""
    found: list[float] = []
    while len(found) < most and (pause_s := wait.pause_s(retry_after_ms)) is not None:
        found.append(pause_s)
        clock.sleep(pause_s)
    return found


def waiting(clock: VirtualClock, timeout_ms: int, fraction: float = 1.0) -> Wait:
    return Wait(SetEntropy(fraction), Deadline.after(timeout_ms, clock))


def test_no_time_is_one_try() -> None:
    """`timeout=0` must answer at once."""
    assert waiting(VirtualClock(), 0).pause_s(20) is None


def test_the_ceiling_doubles() -> None:
    """Hundreds that wait would poll at the pace of the first second for as long as the jam lasts."""
    clock = VirtualClock()
    found = pauses(waiting(clock, 8_000), clock)
    assert found[:3] == [FIRST_CEILING_MS * factor / 1_000 for factor in (1, 2, 4)]
    assert max(found) <= LAST_CEILING_MS / 1_000


@given(timeout_ms=st.integers(1, 60_000), fraction=st.floats(0.01, 0.99), hint=st.integers(20, 2_000))
def test_the_wait_ends_exactly_when_the_time_is_up_with_one_last_try(
    timeout_ms: int, fraction: float, hint: int
) -> None:
    """Ending early refuses a caller that would have waited; ending late breaks a deadline."""
    clock = VirtualClock()
    end_ms = clock.now + timeout_ms
    found = pauses(waiting(clock, timeout_ms, fraction), clock, hint, most=100_000)
    assert clock.now == end_ms
    assert sum(found) == pytest.approx(timeout_ms / 1_000)


def test_the_answers_estimate_is_waited_for_where_it_is_longer() -> None:
    """Coming before anything can have come back costs a request for nothing."""
    clock = VirtualClock()
    assert waiting(clock, 60_000).pause_s(1_500) == 1.5
    assert waiting(clock, 60_000).pause_s(99_000) == LAST_CEILING_MS / 1_000


def test_the_first_try_writes_and_the_later_ones_look() -> None:
    """A write that is refused costs ten times a look; the first is likely to be granted."""
    clock = VirtualClock()
    wait = waiting(clock, 5_000)
    assert not wait.looks_first
    wait.pause_s(20)
    assert wait.looks_first
