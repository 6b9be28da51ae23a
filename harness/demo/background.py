"""Work beside the main thread: one long call, or a short repeated one. Neither keeps the program from ending."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def in_background(call: Callable[[], T]) -> Future[T]:
    """Run a call in a thread of its own, which does not keep the program from ending: an executor's threads would."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`, where it can be acted on
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextmanager
def repeating(call: Callable[[], None], each_s: float) -> Iterator[None]:
    """Make a call each `each_s` seconds, and once more at the end; raise its exception, unless the body raised one."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(each_s):
            call()
        call()

    running = in_background(repeat)
    try:
        yield
    finally:
        over.set()
    running.result()
