"""Lets one run at a time use this checkout's build folder: sam builds there, and logs and results are written there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Final

from harness.errors import StackError
from harness.paths import BUILD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK: Final = BUILD / "run.lock"
_held: dict[Path, int] = {}


@contextlib.contextmanager
def only_run(lock: Path = LOCK) -> Iterator[None]:
    """Hold the build folder. The same process may enter again; the kernel releases the lock when the process ends.

    Raises:
        StackError: another process holds it; the message names that process.
    """
    with contextlib.ExitStack() as stack:
        if not _held.get(lock):
            stack.enter_context(_locked(lock))
        _held[lock] = _held.get(lock, 0) + 1
        try:
            yield
        finally:
            _held[lock] -= 1


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StackError(
                f"another run (pid {holder}) uses {lock.parent}: wait until it ends, or stop it with Ctrl-C"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
