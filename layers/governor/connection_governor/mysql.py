"""A governed MySQL session: opened behind the fence, guarded by its lease, reset in one round trip, closed for certain.

What is NOT promised: a session whose holder is frozen between signing in and the SET which follows at once has the
server's own `wait_timeout`: the server's parameters should bound it, and the janitor ends it.
Behind a proxy (RDS Proxy, ProxySQL), the end of the stream is the proxy's, and says nothing about MySQL.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.charset import charset_by_name
from pymysql.connections import Connection
from pymysql.constants import COMMAND

from connection_governor.clock import SYSTEM_CLOCK
from connection_governor.errors import LeaseLost
from connection_governor.fence import Fence, SessionStart, set_statement
from connection_governor.tls import ResumingContext, context_for

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

    from connection_governor.clock import Clock
    from connection_governor.lease import Lease
    from connection_governor.secrets import Credentials

    class _Connection(Connection[Cursor]):
        """What the stubs of PyMySQL leave out."""

        server_version: str
        _sock: socket.socket | None
        _result: Any
        _closed: bool
        _read_timeout: float | None
        _write_timeout: float | None
        _next_seq_id: int

        def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        def _read_ok_packet(self) -> object: ...
        def _write_bytes(self, data: bytes) -> None: ...
        def _force_close(self) -> None: ...
        def thread_id(self) -> int: ...
        def next_result(self, unbuffered: bool = False) -> int: ...

else:
    _Connection = Connection

CLOSE_SECONDS = 0.2
PING_SECONDS = 1.0
_QUIT = struct.pack("<iB", 1, COMMAND.COM_QUIT)
_RESET = bytes([0x1F])  # COM_RESET_CONNECTION; PyMySQL has no name for it
_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8  # Linux: tcp_info's first byte, once the peer has reset or finished the stream


@dataclass(frozen=True, slots=True)
class Target:
    """Where a database listens.

    Attributes:
        host: name or address; with `tls="verify"` the certificate must be for it.
        port: TCP port.
        database: the schema to use, or None.
        tls: `verify`, `require` or `off`, see `tls.MODES`.
        tls_ca: PEM file of the authorities to trust; None for those of Amazon RDS.
        connect_seconds: limit of each step of opening (connect, TLS, sign in, set up).
    """

    host: str
    port: int = 3306
    database: str | None = None
    tls: str = "verify"
    tls_ca: str | None = None
    connect_seconds: float = 3.0


def session_name(lease_id: str, shard: str) -> str:
    """The `program_name` that ties a session to its lease; the shard as its key in the table, such as `orders#3`."""
    return f"governor:{lease_id}:{shard}"


def open_session(
    target: Target,
    credentials: Credentials,
    fence: Fence | None = None,
    *,
    program_name: str = "",
    usable_until_ms: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    start: SessionStart | None = None,
    **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
) -> FencedConnection:
    """Opens a session behind the fence; one round trip less than PyMySQL's own connect.

    Args:
        target: where to.
        credentials: who.
        fence: the session's limits.
        program_name: see `session_name`.
        usable_until_ms: no statement is started later, not even the one that sets the session up; None for no limit.
        clock: what `usable_until_ms` is compared with.
        start: character set, autocommit, time zone and so on.
        options: other arguments of PyMySQL, such as `cursorclass` and `client_flag`.

    Raises:
        pymysql.err.OperationalError: whatever MySQL or the network says (1040, 1045, 1226, 2003, ...).
        InvalidRequest: TLS mode or authority that cannot be used.
        LeaseLost: opening took until after `usable_until_ms`.
    """
    context = context_for(target.tls, target.tls_ca, target.host)
    return FencedConnection(
        fence=fence or Fence(),
        start=start or SessionStart(),
        usable_until_ms=usable_until_ms,
        clock=clock,
        host=target.host,
        port=target.port,
        database=target.database,
        connect_timeout=target.connect_seconds,
        user=credentials.username,
        password=credentials.password.encode(),  # a text would be sent as latin-1
        program_name=program_name,
        ssl=context,
        ssl_disabled=context is None,
        **options,
    )


class FencedConnection(_Connection):
    """A PyMySQL connection whose session MySQL itself ends when its holder vanishes.

    Attributes:
        fence: the session's limits.
        usable_until_ms: statements are refused after this moment; the lease's owner moves it when the lease is renewed.
        let_go: after the end: whether the server is known to have closed its side.
        is_mariadb: as the server said on opening.
        lease: what it was opened under; None where it was opened without.
        acquired_ms: when that lease was granted, milliseconds since 1970 UTC.
    """

    let_go = False
    is_mariadb = False
    lease: Lease | None = None
    acquired_ms = 0
    _opened = False
    _cut_off = False
    _after_reset: tuple[bytes, ...] = ()

    def __init__(
        self,
        *,
        fence: Fence,
        start: SessionStart,
        usable_until_ms: int | None,
        clock: Clock,
        connect_timeout: float,
        **options: Any,  # noqa: ANN401 - as above
    ) -> None:
        self.fence = fence
        self.usable_until_ms = usable_until_ms
        self._start = start
        self._now_ms = clock.now_ms
        super().__init__(
            charset=start.charset,
            collation=start.collation,
            autocommit=start.autocommit,
            connect_timeout=connect_timeout,
            read_timeout=connect_timeout,
            write_timeout=connect_timeout,
            **options,
        )
        self._read_timeout = self._write_timeout = fence.read_seconds

    def connect(self, sock: socket.socket | None = None) -> None:
        """Connects once: a session lives and dies with one lease, so `ping(reconnect=True)` cannot revive it.

        Raises:
            pymysql.err.InterfaceError: it was connected before.
        """
        if self._opened:
            raise err.InterfaceError(0, "a governed connection is never reopened: take a new lease")
        super().connect(sock)
        if isinstance(self._sock, ssl.SSLSocket) and isinstance(self._sock.context, ResumingContext):
            self._sock.context.remember(self._sock)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """As PyMySQL; while connecting, where it would send SET NAMES, sends all of the session's settings at once."""
        if self._opened:
            super().set_character_set(charset, collation)
            return
        self.is_mariadb = "mariadb" in self.server_version.lower()
        statement = set_statement(self.fence, self._start, is_mariadb=self.is_mariadb).encode()
        self._execute_command(COMMAND.COM_QUERY, statement)
        self._read_ok_packet()  # also tells autocommit's state, so that PyMySQL need not set it
        use = (bytes([COMMAND.COM_INIT_DB]) + _encoded(self.db),) if self.db else ()
        self._after_reset = (_RESET, *use, bytes([COMMAND.COM_QUERY]) + statement)
        self._opened = True

    def reset(self) -> None:
        """Rolls back and forgets all session state, and puts the fence up again: one write, one round trip.

        COM_RESET_CONNECTION takes the session's limits back to the server's defaults and leaves the schema that the
        last USE chose. So it goes out together with the schema's name and the settings, and no moment is unfenced.
        Allowed after `usable_until_ms`, as a way of giving up.

        Raises:
            pymysql.err.Error: the session is unusable, and closed.
        """
        self._finish_results()
        self._write_bytes(b"".join(struct.pack("<i", len(command)) + command for command in self._after_reset))
        try:
            for _ in self._after_reset:
                self._next_seq_id = 1  # each command starts a sequence of its own
                self._read_ok_packet()
        except BaseException:
            self._force_close()  # answers are left over: the session is out of step
            raise
        self._restore_own_state()

    def is_alive(self) -> bool:
        """Whether the server answers a ping within `PING_SECONDS`; where it does not, the connection is closed.

        A ping starts the idle time anew, so it is refused like a statement.

        Raises:
            LeaseLost: it is too late to use this session.
        """
        patience, self._read_timeout = self._read_timeout, PING_SECONDS
        try:
            self.ping()
        except err.Error:
            self._force_close()
            return False
        finally:
            self._read_timeout = patience
        return True

    def close(self) -> None:
        """Says goodbye and waits up to `CLOSE_SECONDS` for the server's end of the stream. Never raises.

        A plain close is sometimes still counted by the server when the next connection arrives. See `let_go`.
        """
        if self._sock is None:
            self._closed = True
            return
        self._cut_off = self._result is not None and self._result.unbuffered_active
        self._closed = True
        with contextlib.suppress(Exception):
            self._sock.settimeout(CLOSE_SECONDS)
            self._sock.sendall(_QUIT)
            self.let_go = _read_to_end(self._sock)
        self._force_close()

    @property
    def may_linger(self) -> bool:
        """After the end: whether the server may still be at work for this session, so that its lease must expire.

        So it is where the client left without a goodbye, or in the middle of a result. A server that heard the goodbye
        and is merely slow to close is trusted: under load, leases left to expire would take its capacity away.
        """
        return self._cut_off and not self.let_go

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """The one way by which PyMySQL starts anything: guarded by the lease."""
        if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:
            raise LeaseLost("too late to start a statement: its lease could end before the statement does")
        super()._execute_command(command, sql)

    def _force_close(self) -> None:
        if self._sock is not None and not self.let_go:
            self._cut_off = self._cut_off or not self._closed
            self.let_go = _peer_has_closed(self._sock)
        if self._result is not None:
            self._result.unbuffered_active = False  # or PyMySQL would go on reading once the result is collected
        super()._force_close()

    def _finish_results(self) -> None:
        if self._sock is not None and self._result is not None and self._result.unbuffered_active:
            self.close()  # what is left of a streamed result may take longer to read than a new session to open
        if self._sock is None:
            raise err.InterfaceError(0, "this session was closed: it cannot be reset")
        while self._result is not None and self._result.has_next:  # a procedure's, sent already
            self.next_result()
        self._result = None

    def _restore_own_state(self) -> None:
        self.charset = self._start.charset
        self.collation = self._start.collation
        self.encoding = charset_by_name(self._start.charset).encoding
        self.autocommit_mode = self._start.autocommit


def _encoded(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def _read_to_end(sock: socket.socket) -> bool:
    """Reads whatever still comes, until the peer ends the stream (True) or `CLOSE_SECONDS` have passed (False)."""
    ends_at = time.monotonic() + CLOSE_SECONDS
    while (left := ends_at - time.monotonic()) > 0:
        sock.settimeout(left)
        if not sock.recv(65_536):
            return True
    return False


def _peer_has_closed(sock: socket.socket) -> bool:
    """Whether the kernel knows that the peer has closed its side (Linux; elsewhere it is never known)."""
    with contextlib.suppress(OSError, AttributeError):
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in (_TCP_CLOSE, _TCP_CLOSE_WAIT)
    return False
