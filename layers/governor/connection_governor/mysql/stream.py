"""Read from a socket until a deadline. A socket's own time-out starts anew with each byte that trickles in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

_UNNOTICED_SECONDS = 0.05  # setting a time-out takes a system call: not for each answer that comes at once
_monotonic_ms = SYSTEM_CLOCK.monotonic_ms


class DeadlineReader(io.RawIOBase):
    """The reading end of a socket, whose deadline can be moved.

    Args:
        sock: the socket; closing the reader leaves it open.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._ends_at_ms = float("inf")
        self._each: Callable[[], float] | None = None

    def allow(self, seconds: float) -> None:
        """Move the deadline to so many seconds from now."""
        self._ends_at_ms, self._each = _monotonic_ms() + seconds * 1_000, None

    def allow_each(self, seconds: Callable[[], float]) -> None:
        """Allow each wait so many seconds from its beginning, as asked for then."""
        self._each = seconds

    @property
    def left_s(self) -> float:
        """How many seconds are left."""
        return (self._ends_at_ms - _monotonic_ms()) / 1_000 if self._each is None else self._each()

    def readable(self) -> bool:
        """See `io`."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Return how many bytes came.

        Raises:
            TimeoutError: the deadline has passed.
        """
        each = self._each
        left_s = (self._ends_at_ms - _monotonic_ms()) / 1_000 if each is None else each()
        if left_s <= 0:
            raise TimeoutError("timed out")
        sock = self._sock
        timeout = sock.gettimeout()
        if timeout is None or abs(left_s - timeout) > _UNNOTICED_SECONDS:
            sock.settimeout(left_s)
        return sock.recv_into(buffer)
