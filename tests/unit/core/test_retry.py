"""Bounded retries in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.core.deadline import Deadline
from connection_governor.core.retry import ACQUIRING, RELEASING, Retry, RetryPolicy
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

POLICY = RetryPolicy(tries=5, base_ms=100, ceiling_ms=300)


class Failing:
    """Fails so often, then succeeds."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left = times
        self.calls = 0
        self.error = error or GovernorUnavailable("down")

    def __call__(self) -> str:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return "done"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def retry(clock: VirtualClock) -> Callable[..., str]:
    """Return a retry with the longest pauses that jitter can draw."""
    return Retry(clock, SetEntropy(1.0))


def test_what_succeeds_is_called_once_and_waits_for_nothing(retry: Callable[..., str], clock: VirtualClock) -> None:
    """Each acquire would be slower for outages that are not there."""
    call = Failing(0)
    assert retry(call, POLICY) == "done"
    assert (call.calls, clock.naps) == (1, [])


def test_pauses_double_up_to_their_ceiling(retry: Callable[..., str], clock: VirtualClock) -> None:
    """A table that is throttling would be kept in it by its own callers."""
    assert retry(Failing(4), POLICY) == "done"
    assert clock.naps == [0.1, 0.2, 0.3, 0.3]


def test_jitter_is_full(clock: VirtualClock) -> None:
    """Callers that failed together would come back together."""
    Retry(clock, SetEntropy(0.25))(Failing(1), POLICY)
    Retry(clock, SetEntropy(0.0))(Failing(1), POLICY)
    assert clock.naps == [0.025, 0.0]


def test_the_last_failure_is_raised_without_a_pause_after_it(retry: Callable[..., str], clock: VirtualClock) -> None:
    """A worker would wait for nothing before it gets the error."""
    call = Failing(99)
    with pytest.raises(GovernorUnavailable, match="down"):
        retry(call, POLICY)
    assert (call.calls, len(clock.naps)) == (5, 4)


def test_a_failure_that_another_try_cannot_help_is_not_retried(retry: Callable[..., str]) -> None:
    """A missing permission would take as long to report as an outage."""
    call = Failing(99, GovernorUnavailable("no right", retryable=False))
    with pytest.raises(GovernorUnavailable):
        retry(call, POLICY)
    assert call.calls == 1


def test_an_answer_that_is_no_outage_is_not_tried_again(retry: Callable[..., str]) -> None:
    """Bad input stays bad."""
    call = Failing(99, InvalidRequest("connections", "must be a number"))
    with pytest.raises(InvalidRequest):
        retry(call, POLICY)
    assert call.calls == 1


@pytest.mark.parametrize(("left_ms", "calls"), [(0, 1), (99, 1), (100, 2), (300, 3), (10_000, 5)])
def test_no_try_starts_after_the_deadline(
    retry: Callable[..., str], clock: VirtualClock, left_ms: int, calls: int
) -> None:
    """No worker will use or release a lease that is acquired after the deadline."""
    call = Failing(99)
    with pytest.raises(GovernorUnavailable):
        retry(call, POLICY, Deadline.after(left_ms, clock))
    assert call.calls == calls
    assert clock.elapsed <= left_ms


@pytest.mark.parametrize(("takes_ms", "calls"), [(1_000, 4), (3_000, 2), (30_000, 2)])
def test_one_retry_always_follows_and_more_only_soon(clock: VirtualClock, takes_ms: int, calls: int) -> None:
    """A slot whose lost answer took long would be lost for its lease; or a silent service hold a worker too long."""
    call = Failing(99)

    def slow() -> str:
        clock.advance(takes_ms)
        return call()

    with pytest.raises(GovernorUnavailable):
        Retry(clock, SetEntropy(0.5))(slow, ACQUIRING)
    assert call.calls == calls


@pytest.mark.parametrize(("policy", "longest_s"), [(RELEASING, 1.2), (ACQUIRING, 0.4)])
def test_the_longest_that_an_outage_can_hold_a_worker_up(
    retry: Callable[..., str], clock: VirtualClock, policy: RetryPolicy, longest_s: float
) -> None:
    """Besides the requests' own time-outs: it is what a customer waits before the error page."""
    with pytest.raises(GovernorUnavailable):
        retry(Failing(99), policy)
    assert sum(clock.naps) <= longest_s
