"""Work beside the main thread: what it returns and raises, and that it ends."""

from __future__ import annotations

import threading

import pytest

from harness.demo.background import in_background, repeating


def test_a_background_calls_result_and_exception_are_those_of_the_call() -> None:
    """A load that failed looks like one that made no invocation."""
    assert in_background(lambda: 7).result(timeout=10) == 7

    def fails() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_background(fails).result(timeout=10)


def test_a_repeated_call_is_made_once_more_at_the_end() -> None:
    """The last metrics of a run are never forwarded, and the sums do not add up."""
    made: list[str] = []
    with repeating(lambda: made.append("call"), each_s=3_600):
        assert made == []
    assert made == ["call"]


def test_a_repeated_calls_exception_is_raised_unless_the_body_raised_one() -> None:
    """A watcher that died leaves gaps in the picture, and nothing tells of it; or it hides the first cause."""
    called = threading.Event()

    def fails() -> None:
        called.set()
        raise OSError("watcher")

    with pytest.raises(OSError, match="watcher"), repeating(fails, each_s=0):
        assert called.wait(10)
    with pytest.raises(ValueError, match="body"), repeating(fails, each_s=0):
        raise ValueError("body")
