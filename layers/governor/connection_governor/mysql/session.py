"""A PyMySQL connection behind the fence: guarded by its lease, reset in one round trip, closed in order.

NOT promised: if a holder is frozen between sign-in and the SET that follows at once, its session has the server's own
`wait_timeout`. The server's parameters should bound it, and the janitor ends it.
Behind a proxy (RDS Proxy, ProxySQL), the end of the stream is the proxy's, and says nothing about MySQL.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import struct
import warnings
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.charset import charset_by_name
from pymysql.connections import Connection
from pymysql.constants import CLIENT, COMMAND, CR, ER
from pymysql.protocol import MysqlPacket

from connection_governor.errors import LeaseLost
from connection_governor.mysql.close import RESET, hang_up, peer_has_closed, say_goodbye
from connection_governor.mysql.credentials import sign_in
from connection_governor.mysql.fence import set_statement
from connection_governor.mysql.governed import GovernedSession, OutOfStep, out_of_step
from connection_governor.mysql.server import READ_ONLY_ERRORS, server_of, server_query
from connection_governor.mysql.state import Stream
from connection_governor.mysql.stream import DeadlineReader
from connection_governor.mysql.tls import ResumingContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymysql.cursors import Cursor

    from connection_governor.core.clock import Clock
    from connection_governor.mysql.credentials import Attempts, Credentials
    from connection_governor.mysql.fence import Fence, SessionStart
    from connection_governor.mysql.server import DatabaseServer

    class _Connection(Connection[Cursor]):
        """Members that the stubs of PyMySQL leave out."""

        server_version: str
        server_status: int
        server_capabilities: int
        user: str | bytes | None
        password: bytes
        connect_timeout: float
        _sock: socket.socket | None
        _rfile: Any
        _result: Any
        _closed: bool
        _secure: bool
        _read_timeout: float | None
        _write_timeout: float | None
        _next_seq_id: int

        def _request_authentication(self) -> None: ...
        def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        def _read_packet(self, packet_type: type[MysqlPacket] = ...) -> Any: ...  # noqa: ANN401 - of that type
        def _read_ok_packet(self) -> object: ...
        def _read_query_result(self, unbuffered: bool = False) -> int: ...
        def _write_bytes(self, data: bytes) -> None: ...
        def _force_close(self) -> None: ...
        def write_packet(self, payload: bytes) -> None: ...
        def thread_id(self) -> int: ...
        def next_result(self, unbuffered: bool = False) -> int: ...

else:
    _Connection = Connection

PING_SECONDS = 1.0
RESET_SECONDS = 1.0  # the body's work is done, and its invocation may be at its end: do not wait for a stuck server
_WHICH_SCHEMA = bytes([COMMAND.COM_QUERY]) + b"SELECT DATABASE()"
_ERROR = b"\xff"
_PIECE_BYTES = 65_536  # a time-out bounds the sending of one piece


class FencedConnection(GovernedSession, _Connection):
    """A PyMySQL connection whose session MySQL itself ends when its holder vanishes.

    Attributes:
        is_mariadb: whether the server is MariaDB, by its greeting.
        on_close: called once, after `close` has ended the session.
    """

    is_mariadb = False
    on_close: Callable[[], None] | None = None
    server_status = 0
    _is_demoted = False
    _reader: DeadlineReader | None = None
    _socket: socket.socket | None = None
    _after_reset: tuple[bytes, ...] = ()

    def __init__(
        self,
        *,
        fence: Fence,
        start: SessionStart,
        attempts: Attempts,
        usable_until_ms: int | None,
        clock: Clock,
        connect_timeout: float,
        needs_writer: bool = False,
        **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
    ) -> None:
        """Make a session that is not open yet: nothing is sent before `connect`."""
        self._govern(fence, usable_until_ms, clock)
        self._needs_writer = self.asks_for_server = needs_writer
        self._start = start
        self._attempts = attempts
        super().__init__(
            charset=start.charset,
            collation=start.collation,
            autocommit=start.autocommit,
            connect_timeout=connect_timeout,
            read_timeout=connect_timeout,
            write_timeout=connect_timeout,
            defer_connect=True,
            **options,
        )

    def connect(self, sock: socket.socket | None = None) -> None:
        """Connect once: a session lives and dies with one lease, so `ping(reconnect=True)` cannot revive it.

        Raises:
            pymysql.err.InterfaceError: it was connected before.
            pymysql.err.OperationalError: MySQL or the network refused.
            LeaseLost: it took until after `usable_until_ms`.
        """
        if self._opened:
            raise err.InterfaceError(0, "a governed connection is never reopened: take a new lease")
        sign_in(self._attempts(), lambda credentials: self._sign_in(credentials, sock))
        if isinstance(self._sock, ssl.SSLSocket) and isinstance(self._sock.context, ResumingContext):
            self._sock.context.remember(self._sock)

    def _sign_in(self, credentials: Credentials, sock: socket.socket | None) -> None:
        self._begin()
        self.user = credentials.username
        self.password = credentials.password.encode()  # PyMySQL would encode a text as latin-1
        try:
            if sock is None and self.unix_socket is None:
                sock = self._new_socket()
            super().connect(sock)
            self._limit_reads()
        except BaseException:
            self._force_close()  # older PyMySQL leaves a TLS socket open
            if self._socket is not None:
                self._socket.close()  # where an exception has struck before PyMySQL knew it
            raise

    def _new_socket(self) -> socket.socket:
        """Connect as PyMySQL does, which loses its socket where an exception strikes before the handshake."""
        try:
            sock = self._socket = socket.create_connection((self.host, self.port), self.connect_timeout)
        except OSError as error:
            message = f"Can't connect to MySQL server on {self.host!r} ({error})"
            raise err.OperationalError(CR.CR_CONN_HOST_ERROR, message) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock

    def _limit_reads(self) -> None:
        """Give each whole answer a deadline from now on, not each of its bytes."""
        assert self._sock is not None
        self._rfile.close()
        self._reader = DeadlineReader(self._sock)
        self._rfile = io.BufferedReader(self._reader)
        self._read_timeout = self._write_timeout = self.fence.read_seconds

    def _request_authentication(self) -> None:
        if (
            self.ssl and not self.server_capabilities & CLIENT.SSL
        ):  # older PyMySQL would send the password in plain text
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, and the server does not offer it")
        super()._request_authentication()

    def write_packet(self, payload: bytes) -> None:
        """Write as PyMySQL does; report the login, which is the first packet after TLS has begun."""
        if not self._opened and (self._secure or not self.ssl):
            self._socket = self._sock
            self._login_sent()
        super().write_packet(payload)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Set it as PyMySQL does; while connecting, send all of the session's settings in place of SET NAMES."""
        if self._opened:
            super().set_character_set(charset, collation)
            return
        self.is_mariadb = "mariadb" in self.server_version.lower()
        statement = set_statement(self.fence, self._start, is_mariadb=self.is_mariadb).encode()
        self._set_up(statement)
        schema = self.db.encode() if isinstance(self.db, str) else self.db
        use = (bytes([COMMAND.COM_INIT_DB]) + schema,) if schema else ()
        self._after_reset = (RESET, *use, bytes([COMMAND.COM_QUERY]) + statement)
        self._opened = True

    def _set_up(self, statement: bytes) -> None:
        """Put the fence up, and learn which server this is: one write, one round trip."""
        self._refuse_if_late()
        query = server_query(is_mariadb=self.is_mariadb).encode()
        commands = [statement, query] if self.asks_for_server else [statement]
        self._send_together([bytes([COMMAND.COM_QUERY]) + command for command in commands])
        self._read_next(self._read_ok_packet)  # also tells autocommit's state, so that PyMySQL need not set it
        if self.asks_for_server:
            self.server = self._read_server()
        if self._needs_writer and not (self.server and self.server.is_writer):
            self.close()
            raise err.OperationalError(ER.OPTION_PREVENTS_STATEMENT, "a writer is needed, and this server only reads")

    def _read_server(self) -> DatabaseServer | None:
        """Return what the second answer says; None where the server does not know what was asked."""
        try:
            self._read_next(self._read_query_result)
        except err.MySQLError:
            if self._sock is None:  # it was no answer
                raise
            return None
        rows, self._result = self._result.rows, None
        return server_of(rows[0]) if rows else None

    def reset(self) -> None:
        """Roll back, forget all session state, and set the fence again: one write, one round trip.

        COM_RESET_CONNECTION restores the server's default limits and keeps the schema that the last USE chose. So it
        goes out together with the schema's name and the settings, and the session is never without its fence. It is
        allowed after `usable_until_ms`, to end the use. A session that was opened without a schema cannot return to
        none: if one was chosen since, it is closed.

        Raises:
            pymysql.err.Error: the session is unusable, and closed; also if the answers take `RESET_SECONDS`.
        """
        try:
            self._allow(RESET_SECONDS)
            self._finish_results()
            self._start_anew()
        except BaseException:
            self._force_close()  # answers may be left over
            raise
        if self._has_chosen_schema():
            self.close()
            raise err.InterfaceError(0, "a schema was chosen, and MySQL has no command that undoes that")
        if not self._state.may_be_kept:
            self.close()
            raise err.InterfaceError(0, "something is still open in the session")
        if self._is_demoted:
            self.close()
            raise err.InterfaceError(0, "the server has become read-only: the address may lead to another one by now")
        self._restore_own_state()

    def _start_anew(self) -> None:
        self._send_together(self._after_reset if self.db else (*self._after_reset, _WHICH_SCHEMA))
        for _ in self._after_reset:
            self._read_next(self._read_ok_packet)
        if not self.db:
            self._read_next(self._read_query_result)

    def _send_together(self, commands: Sequence[bytes]) -> None:
        self._state.commands_sent(len(commands))
        self._write_bytes(b"".join(struct.pack("<i", len(command)) + command for command in commands))

    def _read_next(self, read: Callable[[], object]) -> None:
        self._next_seq_id = 1  # each command starts a sequence of its own
        read()

    def _has_chosen_schema(self) -> bool:
        return not self.db and bool(self._result.rows) and self._result.rows[0][0] is not None

    def rollback(self) -> None:
        """Roll back as PyMySQL does; if no statement can be sent, close the session, which also rolls back.

        Pools and SQLAlchemy roll back before they close, and would leave the session open if this raised `LeaseLost`.
        """
        try:
            super().rollback()
        except (LeaseLost, OutOfStep):
            self.close()

    def is_alive(self) -> bool:
        """Return whether the server answers a ping within `PING_SECONDS`; if not, close the connection.

        A ping starts the idle time anew, so it is refused like a statement.

        Raises:
            LeaseLost: it is too late to use this session.
        """
        try:
            self.ping(reconnect=False)  # older PyMySQL would reconnect by itself
        except err.Error:
            self._force_close()
            return False
        return True

    def close(self) -> None:
        """Send COM_QUIT and wait up to `close.CLOSE_SECONDS` for the server to end the session: see `let_go`.

        A plain close is sometimes still counted by the server when the next connection arrives.
        """
        if self._sock is not None and not self._is_copy:
            self._leave(self._sock)
        self._force_close()
        if self._socket is not None:
            self._socket.close()  # if an exception interrupted PyMySQL's own close
        self._closed = True
        if self.on_close is not None:
            self.on_close()
            self.on_close = None

    def _leave(self, sock: socket.socket) -> None:
        self._closed = True
        try:
            if self._state.may_say_goodbye and not peer_has_closed(sock):
                self._state.goodbye_said()
                self._state.goodbye_answered(say_goodbye(sock))
        finally:
            self._force_close()

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 where there is none."""
        return self._sock.getsockname()[1] if self._sock is not None and self.unix_socket is None else 0

    def next_result(self, unbuffered: bool = False) -> int:
        """Read as PyMySQL does, within a statement's time."""
        self._allow(self._patience_s())
        return super().next_result(unbuffered)

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """Send a command as PyMySQL does: guarded by the lease, and only while the session is in step."""
        self._refuse_if_late()
        if self._sock is not None:
            self._refuse_if_gone(self._sock)
            self._allow(PING_SECONDS if command == COMMAND.COM_PING else self.fence.read_seconds)
            self._read_what_is_left()
            self._refuse_if_out_of_step()
            self._state.commands_sent()
        super()._execute_command(command, sql)

    def _refuse_if_gone(self, sock: socket.socket) -> None:
        """Send nothing to a server that has closed: a command without an answer might be at work."""
        if peer_has_closed(sock):
            self._force_close()
            raise err.OperationalError(CR.CR_SERVER_GONE_ERROR, "MySQL server has gone away")

    def _allow(self, seconds: float) -> None:
        """Bound the sending of a command and its whole answer, until the next call of this."""
        if self._reader is None or self._sock is None:
            return
        self._reader.allow(seconds)
        self._write_timeout = self._read_timeout
        if self._sock.gettimeout() != self._read_timeout:  # the last deadline has shortened it
            self._sock.settimeout(self._read_timeout)
            self._current_timeout = self._read_timeout  # newer PyMySQL remembers what it has set

    def _read_what_is_left(self) -> None:
        """Read the rest of the last command's results, as PyMySQL does before the next command."""
        if self._result is None:
            return
        if self._result.unbuffered_active:
            warnings.warn("Previous unbuffered result was left incomplete", stacklevel=2)
            self._result._finish_unbuffered_query()  # noqa: SLF001 - as PyMySQL's connection
        while self._result.has_next:
            super().next_result()
        self._result = None

    def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> Any:  # noqa: ANN401 - of that type
        if not self._state.read_begun():
            self._force_close()
            raise out_of_step()
        try:
            packet = super()._read_packet(packet_type)
        except err.MySQLError as error:
            if self._sock is not None:  # else the stream has ended
                self._state.received(_ERROR)
            self._is_demoted = self._is_demoted or error.args[0] in READ_ONLY_ERRORS
            raise
        self._state.received(packet.get_all_data())
        return packet

    def _read_query_result(self, unbuffered: bool = False) -> int:
        affected = super()._read_query_result(unbuffered)
        if unbuffered and self._reader is not None:
            self._reader.allow_each(self._patience_s)  # the body may rest between two rows
        return affected

    def _write_bytes(self, data: bytes) -> None:
        if self._reader is None or len(data) <= _PIECE_BYTES:
            super()._write_bytes(data)
            return
        for start in range(0, len(data), _PIECE_BYTES):
            self._write_timeout = max(self._reader.left_s, 0.001)
            super()._write_bytes(data[start : start + _PIECE_BYTES])

    def _force_close(self) -> None:
        sock = self._sock
        if sock is not None and not self._is_copy:
            if peer_has_closed(sock):
                self._state.server_closed()
            self._state.cut_off()
            if self._state.stream is Stream.CUT:
                hang_up(sock)  # another thread may wait for an answer, and would delay the close until then
        if self._result is not None:
            self._result.unbuffered_active = False  # or PyMySQL would continue reading once the result is collected
        with contextlib.suppress(Exception):  # a reader that is at work in this very thread
            if self._rfile is not None:
                self._rfile.close()
        self._rfile = None
        super()._force_close()

    def _finish_results(self) -> None:
        if self._sock is not None and self._result is not None and self._result.unbuffered_active:
            self.close()  # the rest of a streamed result may take longer to read than a new session to open
        if self._sock is None:
            raise err.InterfaceError(0, "this session was closed: it cannot be reset")
        self._refuse_if_gone(self._sock)
        self._read_what_is_left()
        self._refuse_if_out_of_step()

    def _restore_own_state(self) -> None:
        self._result = None
        self.charset = self._start.charset
        self.collation = self._start.collation
        self.encoding = charset_by_name(self._start.charset).encoding
        self.autocommit_mode = self._start.autocommit
