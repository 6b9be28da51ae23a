"""Work beside the main thread: one long call, or a short repeated one. Neither keeps the program from ending."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")


class Task(Generic[T]):
    """A call that runs in a thread; `result` returns its result or raises its exception."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again in `result`, where the caller can act on it
            self._error = error

    def done(self) -> bool:
        """Return whether the call has ended."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait for the end; return the call's result, or raise its exception."""
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
        """Start calling."""
        self._task = Task(self._repeat)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; raise a call's exception, unless the block raised one itself."""
        self._over.set()
        if self._task is not None and kind is None:
            self._task.result()

    def _repeat(self) -> None:
        while not self._over.wait(self._each_s):
            self._call()
        self._call()
