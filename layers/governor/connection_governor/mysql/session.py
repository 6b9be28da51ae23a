"""A PyMySQL connection behind the fence: guarded by its lease, reset in one round trip, closed in order.

NOT promised: if a holder is frozen between sign-in and the SET that follows at once, its session has the server's own
`wait_timeout`. The server's parameters should bound it, and the janitor ends it.
Behind a proxy (RDS Proxy, ProxySQL), the end of the stream is the proxy's, and says nothing about MySQL.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.charset import charset_by_name
from pymysql.constants import CLIENT, COMMAND, CR, ER

from connection_governor.database.credentials import sign_in
from connection_governor.errors import LeaseLost
from connection_governor.mysql.close import RESET, peer_has_closed, say_goodbye
from connection_governor.mysql.driver import ReportingConnection
from connection_governor.mysql.fence import set_statement
from connection_governor.mysql.governed import OutOfStep, plugin_needs_tls
from connection_governor.mysql.server import has_roles, restoring_statements, roles_query, server_of, server_query
from connection_governor.mysql.state import Phase
from connection_governor.mysql.tls import ResumingContext, host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pymysql.protocol import MysqlPacket

    from connection_governor.core.clock import Clock
    from connection_governor.database.credentials import Attempts, Login
    from connection_governor.database.fence import Fence
    from connection_governor.database.patience import Patience
    from connection_governor.mysql.fence import SessionStart

RESET_SECONDS = 1.0  # the body's work is done, and its invocation may be at its end: do not wait for a stuck server
_WHICH_SCHEMA = bytes([COMMAND.COM_QUERY]) + b"SELECT DATABASE()"
_NULL = b"\xfb"


class FencedConnection(ReportingConnection):
    """A PyMySQL connection whose session MySQL itself ends when its holder vanishes.

    Attributes:
        is_mariadb: whether the server is MariaDB, by its greeting.
        on_close: called once, after `close` has ended the session.
    """

    is_mariadb = False
    on_close: Callable[[], None] | None = None
    server_status = 0
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
        patience: Patience | None = None,
        **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
    ) -> None:
        """Make a session that is not open yet: nothing is sent before `connect`."""
        self._govern(fence, usable_until_ms, clock)
        self._patience = patience
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
        sign_in(self._attempts(), lambda credentials: self._sign_in_patiently(credentials, sock))
        if isinstance(self._sock, ssl.SSLSocket) and isinstance(self._sock.context, ResumingContext):
            self._sock.context.remember(self._sock)

    def _sign_in_patiently(self, credentials: Login, sock: socket.socket | None) -> None:
        """Sign in, and try again where a server that has heard no login was silent, see `patience`."""
        while True:
            if self._patience is not None:
                self._patience.begin()
            try:
                self._sign_in(credentials, sock)
            except err.OperationalError:
                again = sock is None and self._state.phase is Phase.CONNECTING
                if self._patience is None or not again or not self._patience.has_another:
                    raise
            else:
                return

    def _limit_step(self) -> None:
        """Give the next step of the opening what is left of this attempt."""
        left_s = self._patience.left_s if self._patience is not None else None
        if left_s is not None:
            self.connect_timeout = self._read_timeout = self._write_timeout = left_s
            if self._sock is not None:
                self._sock.settimeout(left_s)

    def _sign_in(self, credentials: Login, sock: socket.socket | None) -> None:
        self._begin()
        self._secure = False  # an earlier attempt may have begun TLS
        self._credentials = credentials
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
        self._limit_step()
        try:
            address: Any = (host_name(self.host), self.port)  # as bytes, too, which its stub leaves out
            sock = self._socket = socket.create_connection(address, self.connect_timeout)
        except OSError as error:
            message = f"Can't connect to MySQL server on {self.host!r} ({error})"
            raise err.OperationalError(CR.CR_CONN_HOST_ERROR, message) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._limit_step()
        return sock

    def _request_authentication(self) -> None:
        if (
            self.ssl and not self.server_capabilities & CLIENT.SSL
        ):  # older PyMySQL would send the password in plain text
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, and the server does not offer it")
        self._refuse_plugin(self._auth_plugin_name.encode(), is_secure=bool(self.ssl))
        self._limit_step()
        try:
            super()._request_authentication()
        except RuntimeError as error:
            self._state.login_given_up()
            raise plugin_needs_tls() from error

    def _process_auth(self, plugin_name: bytes, auth_packet: MysqlPacket, *more: Any) -> Any:  # noqa: ANN401 - as PyMySQL
        self._refuse_plugin(plugin_name, is_secure=self._secure)
        return super()._process_auth(plugin_name, auth_packet, *more)

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Set it as PyMySQL does; while connecting, send all of the session's settings in place of SET NAMES."""
        if self._opened:
            super().set_character_set(charset, collation)
            return
        self.is_mariadb = "mariadb" in self.server_version.lower()
        statement = set_statement(self.fence, self._start, is_mariadb=self.is_mariadb).encode()
        self._set_up(statement)
        self._opened = True

    def _set_up(self, statement: bytes) -> None:
        """Put the fence up, and learn which server this is and which roles are active: one write, one round trip."""
        self._refuse_if_late()
        self._limit_step()
        asks_for_roles = self.asks_for_server and has_roles(self.server_version, is_mariadb=self.is_mariadb)
        queries = [server_query(is_mariadb=self.is_mariadb)] if self.asks_for_server else []
        queries += [roles_query(is_mariadb=self.is_mariadb)] if asks_for_roles else []
        self._send_together([_query(statement), *(_query(text.encode()) for text in queries)])
        self._read_ok()  # also tells autocommit's state, so that PyMySQL need not set it
        if self.asks_for_server:
            row = self._read_row()
            self.server = server_of(row) if row else None
            row = self._read_row() if asks_for_roles else ()
            self._after_reset = () if row is None else self._commands_of_reset(statement, row)
        if self._needs_writer and not (self.server and self.server.is_writer):
            self.close()
            raise err.OperationalError(ER.OPTION_PREVENTS_STATEMENT, "a writer is needed, and this server only reads")

    def _read_row(self) -> Sequence[Any] | None:
        """Return the only row of the next answer; None where the server does not know what was asked."""
        try:
            self._next_seq_id = 1
            self._read_query_result()
        except err.MySQLError:
            if self._sock is None:  # it was no answer
                raise
            return None
        rows, self._result = self._result.rows, None
        return rows[0] if rows else None

    def _commands_of_reset(self, statement: bytes, row: Sequence[Any]) -> tuple[bytes, ...]:
        """Return the reset with all that follows it; the roles come before the schema, which they may admit to."""
        restoring = restoring_statements(row, is_mariadb=self.is_mariadb) if row else []
        schema = self.db.encode() if isinstance(self.db, str) else self.db
        use = (bytes([COMMAND.COM_INIT_DB]) + schema,) if schema else ()
        return (RESET, _query(statement), *(_query(text.encode()) for text in restoring), *use)

    def reset(self) -> None:
        """Roll back, forget all session state, and set the fence again: one write, one round trip.

        COM_RESET_CONNECTION restores the server's default limits, and keeps what the last USE and the last SET ROLE
        chose. So it goes out together with the settings, the roles and the schema of the opening, and the session is
        never without its fence. It is allowed after `usable_until_ms`, to end the use. A session that was opened
        without a schema cannot return to none: if one was chosen since, it is closed.

        Raises:
            pymysql.err.Error: the session is unusable, and closed; also if the answers take `RESET_SECONDS`, if the
                user has lost a role meanwhile, or if the opening did not ask for the roles (`asks_for_server`).
        """
        try:
            self._allow(RESET_SECONDS)
            self._finish_results()
            has_chosen_schema = self._start_anew()
        except err.MySQLError:
            self.close()
            raise
        except BaseException:
            self._force_close()  # answers may be left over
            raise
        if has_chosen_schema:
            self.close()
            raise err.InterfaceError(0, "a schema was chosen, and MySQL has no command that undoes that")
        if not self._state.may_be_kept:
            self.close()
            raise err.InterfaceError(0, "something is still open in the session")
        if self._is_demoted:
            self.close()
            raise err.InterfaceError(0, "the server has become read-only: the address may lead to another one by now")
        self._restore_own_state()

    def _start_anew(self) -> bool:
        """Reset and set up again; return whether a schema is chosen that no command can undo."""
        self._send_together(self._after_reset if self.db else (*self._after_reset, _WHICH_SCHEMA))
        refusals = [error for _ in self._after_reset if (error := self._refusal()) is not None]
        has_chosen_schema = not self.db and self._read_one_value() != _NULL
        if refusals:
            raise refusals[0]
        return has_chosen_schema

    def _refusal(self) -> err.MySQLError | None:
        """Read the next command's answer, and return its error. The stream stays in step, so it can end in order."""
        try:
            self._read_ok()
        except err.MySQLError as error:
            if self._sock is None:
                raise
            return error
        return None

    def _read_one_value(self) -> bytes:
        """Return the row of a result with one row and one column; anything else leaves the session out of step."""
        self._next_seq_id = 1
        _count, _column, _end_of_columns, row, _end = [self._read_bytes_of_packet() for _ in range(5)]
        return row

    def _send_together(self, commands: Sequence[bytes]) -> None:
        self._state.commands_sent(len(commands))
        self._write_bytes(b"".join(struct.pack("<i", len(command)) + command for command in commands))

    def end_sessions(self, names: Collection[str]) -> int:
        """End the user's own other sessions with these names, as of a lease that was taken over; count them.

        It needs no right. Where the server keeps no names there is none to end. Numbers of sessions are not used again,
        so no other session can get one between the look and its KILL.

        Raises:
            pymysql.err.Error: the server refused.
            LeaseLost: it is too late to use this session.
        """
        from connection_governor.mysql.observe import own_sessions_query  # noqa: PLC0415 - few sessions end others

        self.query(own_sessions_query(names))
        kills = [_query(b"KILL CONNECTION %d" % int(number)) for (number,) in self._result.rows]
        self._result = None
        self._allow(self._answer_seconds)
        self._send_together([*kills, _query(b"ROLLBACK")])  # the look may have begun a transaction
        ended = [self._refusal() is None for _ in kills]  # one that has ended meanwhile is refused
        self._read_ok()
        return sum(ended)

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
            self._execute_command(COMMAND.COM_PING, b"")
            self._read_ok()
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
            if self._state.may_send_goodbye and not peer_has_closed(sock):
                self._state.goodbye_sent()
                self._state.goodbye_answered(say_goodbye(sock))
        finally:
            self._force_close()

    def _finish_results(self) -> None:
        if self._sock is not None and self._result is not None and self._result.unbuffered_active:
            self.close()  # the rest of a streamed result may take longer to read than a new session to open
        if self._sock is None:
            raise err.InterfaceError(0, "this session was closed: it cannot be reset")
        if peer_has_closed(self._sock):
            raise self._gone()
        self._read_what_is_left()
        self._refuse_if_out_of_step()
        if not self._after_reset or self._outlasts_reset:
            raise err.InterfaceError(0, "a reset would not bring this session back to its start")

    def _restore_own_state(self) -> None:
        self._result = None
        self.charset = self._start.charset
        self.collation = self._start.collation
        self.encoding = charset_by_name(self._start.charset).encoding
        self.autocommit_mode = self._start.autocommit


def _query(text: bytes) -> bytes:
    return bytes([COMMAND.COM_QUERY]) + text
