"""Exceptions that are raised between two instructions, as a signal handler raises them: a time-out library, Ctrl-C."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

WHERE = (
    "connection_governor/mysql/",
    "connection_governor/postgresql/",
    "/pymysql/",
    "/aiomysql/",
    "/psycopg/",
)
# psycopg's in pure Python: three instructions lose the socket that libpq has just made. No login was sent on it.
NEVER = ("PGconn.connect_start", "PGconn.__init__")


class Interrupted(BaseException):
    """What is raised."""


class Interruption:
    """Raises at one of the instructions of the drivers.

    Attributes:
        passed: how many instructions went by.
        happened: whether it raised.
    """

    def __init__(self, at: int) -> None:
        self.passed = 0
        self.happened = False
        self._at = at

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401 - see sys.settrace
        """See `sys.settrace`."""
        if event == "call":
            code = frame.f_code
            if code.co_qualname in NEVER or not any(part in code.co_filename for part in WHERE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.passed += 1
            if self.passed == self._at:
                self.happened = True
                sys.settrace(None)
                raise Interrupted
        return self.trace


@contextmanager
def interrupted(at: int) -> Iterator[Interruption]:
    """Interrupt the body before its instruction number `at`, counted within the drivers."""
    interruption = Interruption(at)
    before = sys.gettrace()
    sys.settrace(interruption.trace)
    try:
        yield interruption
    except BaseException:  # also one that a driver raises in its place
        if not interruption.happened:
            raise
    finally:
        sys.settrace(before)
