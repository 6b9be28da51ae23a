"""Read from a socket until a deadline. A socket's own time-out starts anew with each byte that trickles in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_UNNOTICED_SECONDS = 0.05  # setting a time-out takes a system call: not for each part that comes at once
_RECEIVED_AT_ONCE = 65_536
_monotonic_ms = SYSTEM_CLOCK.monotonic_ms


class AnswerReader:
    """What a socket has received and no packet has taken, with a deadline that can be moved.

    Before the first `allow` the socket's own time-out holds, as the opening sets it for each step.

    Args:
        sock: the socket; it stays open.

    Attributes:
        sock: as given.
        buffer: bytes that were received. The owner takes them itself, since a call for each row would be slow.
        at: where those begin that were not taken.
    """

    __slots__ = ("_each", "_ends_at_ms", "_waits_first", "at", "buffer", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.at = 0
        self._ends_at_ms: float | None = None
        self._each: Callable[[], float] | None = None
        self._waits_first = False

    def allow(self, seconds: float) -> None:
        """Move the deadline to so many seconds from now, above 0: for sending a command, and for its whole answer."""
        self._ends_at_ms, self._each = _monotonic_ms() + seconds * 1_000, None
        self._waits_first = True
        if self.sock.gettimeout() != seconds:  # setting it takes a system call
            self.sock.settimeout(seconds)

    def allow_each(self, seconds: Callable[[], float]) -> None:
        """Allow each wait so many seconds from its beginning, as asked for then."""
        self._each, self._waits_first = seconds, False

    def sent_slowly(self) -> None:
        """Count the time that a long command took to send: the wait for its answer is shorter by it."""
        self._waits_first = False

    @property
    def left_s(self) -> float | None:
        """How many seconds are left; None: the socket's own time-out holds."""
        if self._each is not None:
            return self._each()
        return None if self._ends_at_ms is None else (self._ends_at_ms - _monotonic_ms()) / 1_000

    def fill(self, count: int) -> None:
        """Receive until there are at least so many bytes to take.

        Raises:
            TimeoutError: the deadline has passed.
            ConnectionError: the stream has ended.
        """
        parts = [self.buffer[self.at :]]
        missing = count - len(parts[0])
        while missing > 0:
            parts.append(self._received())
            missing -= len(parts[-1])
        self.buffer, self.at = b"".join(parts), 0

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raises as `fill`."""
        if len(self.buffer) < self.at + count:
            self.fill(count)
        taken = self.buffer[self.at : self.at + count]
        self.at += count
        return taken

    def _received(self) -> bytes:
        if self._waits_first:  # the time-out is set: most answers come at once, and whole
            self._waits_first = False
        else:
            self._limit_wait()
        received = self.sock.recv(_RECEIVED_AT_ONCE)
        if not received:
            raise ConnectionResetError("the server has ended the stream")
        return received

    def _limit_wait(self) -> None:
        left_s = self.left_s
        if left_s is None:
            return
        if left_s <= 0:
            raise TimeoutError("timed out")
        timeout = self.sock.gettimeout()
        if timeout is None or abs(left_s - timeout) > _UNNOTICED_SECONDS:
            self.sock.settimeout(left_s)
