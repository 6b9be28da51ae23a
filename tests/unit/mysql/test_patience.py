"""The attempts of one opening, in virtual time."""

from __future__ import annotations

import pytest

from connection_governor.core.deadline import Deadline
from connection_governor.database.patience import Patience
from tests.support.virtual import VirtualClock


def silent_attempts_s(invocation_s: float | None, longest_s: float = 45.0) -> list[float]:
    """Return how long each attempt lasts at a server that never answers."""
    clock = VirtualClock()
    deadline = None if invocation_s is None else Deadline.after(round(invocation_s * 1_000), clock)
    lengths: list[float] = []
    patience = Patience(3_000, round(longest_s * 1_000), deadline, clock)
    while not lengths or patience.has_another:
        patience.begin()
        length_s = 3.0 if patience.left_s is None else patience.left_s
        lengths.append(length_s)
        clock.advance(round(length_s * 1_000))
    return lengths


@pytest.mark.parametrize(
    ("invocation_s", "attempts_s"),
    [
        (900.0, [3.0, 6.0, 12.0, 24.0]),  # a resume of 15 s and more falls into the third
        (20.0, [3.0, 6.0, 10.75]),  # and a handler can still answer
        (2.0, [1.75]),
        (None, [3.0]),
    ],
)
def test_a_silent_server_is_waited_for_within_the_invocation(
    invocation_s: float | None, attempts_s: list[float]
) -> None:
    """A paused database is given up before it has resumed, or Lambda kills the invocation that waits for it."""
    assert silent_attempts_s(invocation_s) == attempts_s


def test_to_resume_can_be_ruled_out() -> None:
    """A database that never pauses is waited for as one that does."""
    assert silent_attempts_s(900.0, longest_s=0) == [3.0]


def test_an_attempt_that_ended_early_is_the_last() -> None:
    """A refusal, which comes at once, is asked for again and again."""
    clock = VirtualClock()
    patience = Patience(3_000, 45_000, Deadline.after(60_000, clock), clock)
    patience.begin()
    clock.advance(2_000)
    assert not patience.has_another
