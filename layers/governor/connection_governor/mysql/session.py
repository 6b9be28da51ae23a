"""A PyMySQL connection behind the fence: guarded by its lease, reset in one round trip, closed for certain.

What is NOT promised: a session whose holder is frozen between signing in and the SET which follows at once has the
server's own `wait_timeout`: the server's parameters should bound it, and the janitor ends it.
Behind a proxy (RDS Proxy, ProxySQL), the end of the stream is the proxy's, and says nothing about MySQL.
"""

from __future__ import annotations

import ssl
import struct
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.charset import charset_by_name
from pymysql.connections import Connection
from pymysql.constants import CLIENT, COMMAND, CR, SERVER_STATUS

from connection_governor.errors import LeaseLost
from connection_governor.mysql.close import RESET, hang_up, peer_has_closed, take_leave
from connection_governor.mysql.fence import set_statement
from connection_governor.mysql.tls import ResumingContext

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pymysql.cursors import Cursor

    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Lease
    from connection_governor.mysql.fence import Fence, SessionStart

    class _Connection(Connection[Cursor]):
        """What the stubs of PyMySQL leave out."""

        server_version: str
        server_status: int
        server_capabilities: int
        _sock: socket.socket | None
        _result: Any
        _closed: bool
        _read_timeout: float | None
        _write_timeout: float | None
        _next_seq_id: int

        def _request_authentication(self) -> None: ...
        def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        def _read_ok_packet(self) -> object: ...
        def _read_query_result(self, unbuffered: bool = False) -> int: ...
        def _write_bytes(self, data: bytes) -> None: ...
        def _force_close(self) -> None: ...
        def thread_id(self) -> int: ...
        def next_result(self, unbuffered: bool = False) -> int: ...

else:
    _Connection = Connection

PING_SECONDS = 1.0
RESET_SECONDS = 1.0  # the body's work is done, and its invocation may be at its end: nobody waits for a stuck server
_WHICH_SCHEMA = bytes([COMMAND.COM_QUERY]) + b"SELECT DATABASE()"


class FencedConnection(_Connection):
    """A PyMySQL connection whose session MySQL itself ends when its holder vanishes.

    Attributes:
        fence: the session's limits.
        usable_until_ms: statements are refused after this moment; the lease's owner moves it when the lease is renewed.
        let_go: after the end: whether the server is known to have closed its side.
        is_mariadb: as the server said on opening.
        lease: what it was opened under; None where it was opened without.
        acquired_ms: when that lease was granted, milliseconds since 1970 UTC.
        on_close: called once, after `close` has ended the session.
    """

    let_go = False
    is_mariadb = False
    lease: Lease | None = None
    acquired_ms = 0
    on_close: Callable[[], None] | None = None
    server_status = 0
    _opened = False
    _unanswered = False
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
        **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
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

    def _request_authentication(self) -> None:
        if (
            self.ssl and not self.server_capabilities & CLIENT.SSL
        ):  # older PyMySQL would send the password in plain text
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, and the server does not offer it")
        super()._request_authentication()

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """As PyMySQL; while connecting, where PyMySQL would send SET NAMES, sends all of the session's settings."""
        if self._opened:
            super().set_character_set(charset, collation)
            self._unanswered = False
            return
        self.is_mariadb = "mariadb" in self.server_version.lower()
        statement = set_statement(self.fence, self._start, is_mariadb=self.is_mariadb).encode()
        self._execute_command(COMMAND.COM_QUERY, statement)
        self._read_ok_packet()  # also tells autocommit's state, so that PyMySQL need not set it
        schema = self.db.encode() if isinstance(self.db, str) else self.db
        use = (bytes([COMMAND.COM_INIT_DB]) + schema,) if schema else ()
        self._after_reset = (RESET, *use, bytes([COMMAND.COM_QUERY]) + statement)
        self._opened = True

    def reset(self) -> None:
        """Rolls back and forgets all session state, and puts the fence up again: one write, one round trip.

        COM_RESET_CONNECTION takes the session's limits back to the server's defaults and leaves the schema that the
        last USE chose. So it goes out together with the schema's name and the settings, and no moment is unfenced.
        Allowed after `usable_until_ms`, as a way of giving up. A session that was opened without a schema cannot go
        back to having none: where one was chosen since, it is closed.

        Raises:
            pymysql.err.Error: the session is unusable, and closed; so it is where an answer takes `RESET_SECONDS`.
        """
        patience, self._read_timeout = self._read_timeout, RESET_SECONDS
        try:
            self._finish_results()
            self._start_anew()
        finally:
            self._read_timeout = patience
        self._restore_own_state()

    def _start_anew(self) -> None:
        commands = self._after_reset if self.db else (*self._after_reset, _WHICH_SCHEMA)
        self._write_bytes(b"".join(struct.pack("<i", len(command)) + command for command in commands))
        try:
            for _ in self._after_reset:
                self._next_seq_id = 1  # each command starts a sequence of its own
                self._read_ok_packet()
            if not self.db:
                self._next_seq_id = 1
                self._read_query_result()
        except BaseException:
            self._force_close()  # answers are left over: the session is out of step
            raise
        if not self.db and self._result.rows and self._result.rows[0][0] is not None:
            self.close()
            raise err.InterfaceError(0, "a schema was chosen, and no command of MySQL's takes that back")

    def show_warnings(self) -> Any:  # noqa: ANN401 - whatever rows PyMySQL returns
        """As PyMySQL."""
        warnings = super().show_warnings()  # type: ignore[no-untyped-call] # as the stubs have it
        self._unanswered = False
        return warnings

    def rollback(self) -> None:
        """As PyMySQL; too late for a statement, it closes the session instead, which rolls back, too.

        Pools and SQLAlchemy roll back before they close, and would leave the session open if this raised `LeaseLost`.
        """
        try:
            super().rollback()
        except LeaseLost:
            self.close()

    def is_alive(self) -> bool:
        """Whether the server answers a ping within `PING_SECONDS`; where it does not, the connection is closed.

        A ping starts the idle time anew, so it is refused like a statement.

        Raises:
            LeaseLost: it is too late to use this session.
        """
        patience, self._read_timeout = self._read_timeout, PING_SECONDS
        try:
            self.ping(reconnect=False)  # older PyMySQL would reconnect by itself
        except err.Error:
            self._force_close()
            return False
        finally:
            self._read_timeout = patience
        return True

    def close(self) -> None:
        """Says goodbye and waits up to `farewell.CLOSE_SECONDS` for the server to let go: see `let_go`. Never raises.

        A plain close is sometimes still counted by the server when the next connection arrives.
        """
        if self._sock is not None:
            self._say_goodbye(self._sock)
        self._closed = True
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close()

    def _say_goodbye(self, sock: socket.socket) -> None:
        in_a_result = self._result is not None and self._result.unbuffered_active
        self._cut_off = self._in_transaction or self._unanswered or in_a_result
        self._closed = True
        if self._unanswered:
            hang_up(sock)  # another thread may be reading the answer, and would hold the close up until it has it
        else:
            self.let_go = take_leave(sock)
        self._force_close()

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 where there is none."""
        return self._sock.getsockname()[1] if self._sock is not None and self.unix_socket is None else 0

    @property
    def may_linger(self) -> bool:
        """After the end: whether the server may still be at work for this session, so that its lease must expire.

        So it is where the client left without a goodbye, in a transaction, or before the end of an answer. A server
        that heard the goodbye and is merely slow to close is trusted: under load, leases left to expire would take its
        capacity away.
        """
        return self._cut_off and not self.let_go

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """The one way by which PyMySQL starts anything: guarded by the lease."""
        if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:
            raise LeaseLost("too late to start a statement: its lease could end before the statement does")
        self._unanswered = True
        super()._execute_command(command, sql)

    def _read_ok_packet(self) -> object:
        try:
            answer = super()._read_ok_packet()
        except err.MySQLError:  # an answer, too; or the end of the connection
            self._unanswered = False
            raise
        self._unanswered = False
        return answer

    def _read_query_result(self, unbuffered: bool = False) -> int:
        try:
            affected = super()._read_query_result(unbuffered)
        except err.MySQLError:
            self._unanswered = False
            raise
        self._unanswered = False
        return affected

    def _force_close(self) -> None:
        if self._sock is not None and not self.let_go:
            self._cut_off = self._cut_off or not self._closed
            self.let_go = peer_has_closed(self._sock) and not self._in_transaction
        if self._result is not None:
            self._result.unbuffered_active = False  # or PyMySQL would go on reading once the result is collected
        super()._force_close()

    @property
    def _in_transaction(self) -> bool:
        """Whether something was written and not committed: the server hangs up first, and may roll back for minutes."""
        return bool(self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def _finish_results(self) -> None:
        if self._sock is not None and self._result is not None and self._result.unbuffered_active:
            self.close()  # what is left of a streamed result may take longer to read than a new session to open
        if self._sock is not None and self._unanswered:
            hang_up(self._sock)  # something tore the client away from an answer: it would be taken for the reset's
            self._force_close()
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
