"""One moment, made from the Lambda context or from a length."""

from __future__ import annotations

from connection_governor.core.deadline import Deadline
from tests.support.invocation import FakeContext
from tests.support.virtual import VirtualClock


def test_the_context_is_turned_into_a_moment_at_once() -> None:
    """The context has no clock of its own: what it said a second ago is a second too much now."""
    clock = VirtualClock()
    deadline = Deadline.of_invocation(FakeContext(2_500), clock)
    clock.advance(1_000)
    assert (deadline.left_ms(), deadline.wall_ms()) == (1_500, clock.now + 1_500)
    assert not deadline.has_passed()
    clock.advance(1_500)
    assert deadline.has_passed()


def test_a_wall_clock_that_is_set_moves_no_deadline() -> None:
    """A laptop whose clock is set back an hour would wait for an hour."""
    clock = VirtualClock()
    deadline = Deadline.after(1_000, clock)
    clock.set_back(3_600_000)
    assert deadline.left_ms() == 1_000
    clock.advance(1_000)
    assert deadline.has_passed()


def test_it_can_only_be_shortened() -> None:
    """A request with a time-out of its own would outlast the invocation."""
    deadline = Deadline.after(1_000, VirtualClock())
    assert deadline.within(400).left_ms() == 400
    assert deadline.within(4_000).left_ms() == 1_000
    assert deadline.before(250).left_ms() == 750


def test_a_deadline_that_has_passed_does_not_bound_a_release() -> None:
    """A lease of one invocation that is released in the next would be left to expire, and its release never sent."""
    clock = VirtualClock()
    deadline = Deadline.after(1_000, clock)
    shorter = deadline.for_release(250)
    assert shorter is not None
    assert shorter.left_ms() == 750
    clock.advance(1_000)
    assert deadline.for_release(250) is None


def test_near_the_end_a_release_uses_half_of_what_is_left() -> None:
    """A release in the last moment of an invocation, which mostly takes five milliseconds, would not even be tried."""
    shorter = Deadline.after(100, VirtualClock()).for_release(250)
    assert shorter is not None
    assert shorter.left_ms() == 50
