"""Work beside the main thread: one long call, or a short one again and again. Neither keeps the program from ending."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")


class Task(Generic[T]):
    """A call that runs in a thread; its result or its exception is had by `result`."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again in `result`, where somebody can act on it
            self._error = error

    def done(self) -> bool:
        """Whether the call has ended."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """Waits for the end; returns the result or raises what the call raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value] # set by the ended call


class Repeating:
    """A context manager that makes a call each `each_s` seconds, and once more on leaving."""

    def __init__(self, call: Callable[[], None], each_s: float) -> None:
        self._call = call
        self._each_s = each_s
        self._over = threading.Event()
        self._task: Task[None] | None = None

    def __enter__(self) -> Self:
        """Starts."""
        self._task = Task(self._repeat)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends; raises what a call raised, unless something else went wrong already."""
        self._over.set()
        if self._task is not None and kind is None:
            self._task.result()

    def _repeat(self) -> None:
        while not self._over.wait(self._each_s):
            self._call()
        self._call()
