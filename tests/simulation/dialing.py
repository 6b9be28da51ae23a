"""How the production code's `FencedConnection` reaches the simulated MySQL: a socket in virtual time, and an opener."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pymysql.err import OperationalError

from connection_governor.database.credentials import Login, only
from connection_governor.mysql import close, stream
from connection_governor.mysql.connect import FencedConnection
from connection_governor.mysql.fence import SessionStart
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.database.fence import Fence
    from tests.simulation.server import Server, ServerSession
    from tests.support.hub import Hub, Process

CONNECT_SECONDS = 3.0
_CLOSE_WAIT, _ESTABLISHED = b"\x08", b"\x01"  # tcp_info's first byte


def set_virtual_time(hub: Hub) -> None:
    """Let `close` and `stream` measure by virtual time."""
    clock = SimpleNamespace(monotonic_ms=lambda: hub.now_us // MS)
    close.SYSTEM_CLOCK = stream.SYSTEM_CLOCK = clock  # type: ignore[assignment,attr-defined]


class VirtualSocket:
    """The client's end of a stream; as much of `socket.socket` as PyMySQL uses.

    Args:
        process: whose it is: its waits are this process's, and with it it ends.
        server: the other end.
    """

    def __init__(self, process: Process, server: Server) -> None:
        self._process = process
        self._server = server
        self._hub = process.hub
        self._inbox = bytearray()
        self._ended = False
        self._closed = False
        self._waiting: int | None = None
        self._seconds: float | None = None
        self._session: ServerSession | None = None
        process.on_end.append(self._holder_ended)

    def dial(self) -> None:
        """Connect, and wait for the server's first packet."""
        self._process.brink(opening=True)
        self._process.sleep(self._server.hop_us())
        if self._hub.now_us < self._server.down_until_us:
            raise ConnectionRefusedError(111, "Connection refused")
        self._session = self._server.accept(self)

    # What PyMySQL calls.

    def settimeout(self, seconds: float | None) -> None:
        """Limit of each wait."""
        self._seconds = seconds

    def gettimeout(self) -> float | None:
        """Limit of each wait."""
        return self._seconds

    def makefile(self, _mode: str) -> VirtualFile:
        """Return a reader whose end is not the stream's."""
        return VirtualFile(self)

    def sendall(self, data: bytes) -> None:
        """Hand over whole packets; a process may be frozen on the brink of it."""
        self._process.brink()
        if self._ended or self._session is None:
            raise BrokenPipeError(32, "Broken pipe")
        self._hub.after(self._server.hop_us(), self._session.receive, bytes(data))

    def read(self, count: int) -> bytes:
        """Return so many bytes, fewer only at the end of the stream."""
        while len(self._inbox) < count and not self._ended:
            self._wait()
        data = bytes(self._inbox[:count])
        del self._inbox[:count]
        return data

    def recv(self, count: int) -> bytes:
        """Return the bytes received, or the end of the stream."""
        if not self._inbox and not self._ended:
            self._wait()
        data = bytes(self._inbox[:count])
        del self._inbox[:count]
        return data

    def recv_into(self, buffer: memoryview) -> int:
        """As `recv`."""
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def shutdown(self, _how: int) -> None:
        """Wake another thread that waits: there is none."""

    def getsockopt(self, *_option: int) -> bytes:
        """Return the kernel's state of the connection."""
        return _CLOSE_WAIT if self._ended else _ESTABLISHED

    def close(self) -> None:
        """End this side of the stream; a process that has ended does nothing any more."""
        if not self._closed and self._process.alive:
            self._closed = True
            self._process.on_end.remove(self._holder_ended)
            self._part()

    # What the server does.

    def hear(self, data: bytes) -> None:
        """See `server.Peer`."""
        self._inbox += data
        self._wake()

    def hear_end(self) -> None:
        """See `server.Peer`."""
        self._ended = True
        self._wake()

    def is_stuck(self) -> bool:
        """See `server.Peer`."""
        return self._process.frozen or not self._process.alive

    def belongs_to(self, process: object) -> bool:
        """See `server.Peer`."""
        return process is self._process

    def _wait(self) -> None:
        self._waiting = ticket = self._process.ticket()
        timer = None
        if self._seconds is not None:
            timer = self._hub.after(int(self._seconds * SECOND), self._process.wake, ticket, TimeoutError("timed out"))
        try:
            self._process.wait()
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._process.wake(self._waiting)

    def _part(self) -> None:
        if self._session is not None:
            self._hub.after(self._server.hop_us(), self._session.client_gone)

    def _holder_ended(self) -> None:
        if self._server.random.random() >= self._server.habits.silent_death:
            self._part()


class VirtualFile:
    """What `makefile` returns: closing it leaves the socket open."""

    def __init__(self, sock: VirtualSocket) -> None:
        self.read = sock.read

    def close(self) -> None:
        """Close nothing."""


class VirtualConnection(FencedConnection):
    """The production connection over a virtual socket."""

    dialing: VirtualSocket

    def __init__(self, dialing: VirtualSocket, **options: Any) -> None:  # noqa: ANN401 - as the production code's
        self.dialing = dialing
        super().__init__(**options)

    def connect(self, sock: Any = None) -> None:  # noqa: ANN401 - a socket, or what stands for it
        """Dial first; everything after it is the production code's and PyMySQL's."""
        if sock is None and not self._opened:
            try:
                self.dialing.dial()
            except OSError as error:
                self._sock = None
                raise OperationalError(2003, str(error)) from error
            sock = self.dialing
        super().connect(sock)


class VirtualOpener:
    """Opens sessions of the simulated server for one process, as `opening.Opener` does.

    Args:
        process: who opens.
        server: where.
        clock: the process's clock.
    """

    def __init__(self, process: Process, server: Server, clock: Clock) -> None:
        self._process = process
        self._server = server
        self._clock = clock

    def new_session(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, _deadline: Deadline | None = None
    ) -> FencedConnection:
        """Return a session behind the fence, not open yet."""
        return VirtualConnection(
            VirtualSocket(self._process, self._server),
            fence=fence,
            start=SessionStart(),
            usable_until_ms=usable_until_ms,
            clock=self._clock,
            attempts=only(Login("worker", "secret")),
            host="virtual",
            program_name=program_name,
            connect_timeout=CONNECT_SECONDS,
            ssl_disabled=True,
        )
