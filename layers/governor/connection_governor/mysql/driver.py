"""PyMySQL's connection as every command goes through it: bounded in time, and reported to the session's state.

The private methods of PyMySQL that are overridden stand here and in `session`.
"""

from __future__ import annotations

import struct
import warnings
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.connections import Connection
from pymysql.constants import COMMAND, CR
from pymysql.protocol import MysqlPacket

from connection_governor.mysql.close import hang_up, peer_has_closed
from connection_governor.mysql.governed import GovernedSession, explain, out_of_step
from connection_governor.mysql.server import READ_ONLY_ERRORS
from connection_governor.mysql.state import NO_PACKET_IS_DUE, Phase, Stream
from connection_governor.mysql.stream import AnswerReader

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pymysql.cursors import Cursor

    class DriverConnection(Connection[Cursor]):
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

        _auth_plugin_name: str

        def _request_authentication(self) -> None: ...
        def _process_auth(self, plugin_name: bytes, auth_packet: MysqlPacket, *more: Any) -> Any: ...  # noqa: ANN401
        def _execute_command(self, command: int, sql: str | bytes) -> None: ...
        def _read_packet(self, packet_type: Callable[..., Any] = ...) -> Any: ...  # noqa: ANN401 - what that returns
        def _read_ok_packet(self) -> object: ...
        def _read_query_result(self, unbuffered: bool = False) -> int: ...
        def _write_bytes(self, data: bytes) -> None: ...
        def _force_close(self) -> None: ...
        def write_packet(self, payload: bytes) -> None: ...  # noqa: D102 - a stub
        def thread_id(self) -> int: ...  # noqa: D102 - a stub
        def next_result(self, unbuffered: bool = False) -> int: ...  # noqa: D102 - a stub

else:
    DriverConnection = Connection

# For what is done with each command: `super()` would look them up again.
_execute_command = DriverConnection._execute_command  # noqa: SLF001 - overridden here
_read_query_result = DriverConnection._read_query_result  # noqa: SLF001
_write_bytes = DriverConnection._write_bytes  # noqa: SLF001

PING_SECONDS = 1.0
_OUTLAST_RESET = (COMMAND.COM_CHANGE_USER, COMMAND.COM_SET_OPTION)  # another user; several statements in one
_OK, _END, _ERROR = 0x00, 0xFE, 0xFF
_COLUMNS, _ROWS = Phase.COLUMNS, Phase.ROWS
_HEADER_BYTES = 4
_COMMAND = struct.Struct("<iB")
_LONGEST_PART = 0xFF_FFFF  # a longer packet comes in several parts
_LARGE_BYTES = 65_536  # a smaller statement is taken by the kernel at once
_SHORTEST_SECONDS = 0.001  # 0 would mean not to wait at all


def _lost(why: str = "") -> err.OperationalError:
    return err.OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query{why}")


def _wrong_number(number: int) -> err.MySQLError:
    """Return the error for a packet out of sequence; MariaDB shuts down with number 0."""
    return err.InternalError(f"Packet sequence number wrong: {number}") if number else _lost()


def _as_bytes(content: bytes, _encoding: str) -> bytes:
    """Stand for the class of a packet whose bytes are all that is needed: an object and its parsing take longer."""
    return content


class ReportingConnection(GovernedSession, DriverConnection):
    """A PyMySQL connection that reports to its `SessionState` and gives each command up in time."""

    _is_demoted = False
    _outlasts_reset = False
    _rfile: Any = None  # PyMySQL's own reader: older versions have none before they connect
    _reader: AnswerReader | None = None
    _opening_reader: AnswerReader | None = None
    _socket: socket.socket | None = None

    def _limit_reads(self) -> None:
        """Give each whole answer a deadline from now on, not each of its bytes."""
        assert self._sock is not None
        self._rfile.close()
        self._reader, self._opening_reader = AnswerReader(self._sock), None
        self._read_timeout = self._write_timeout = self._answer_seconds

    def write_packet(self, payload: bytes) -> None:
        """Write as PyMySQL does; report the login, which is the first packet after TLS has begun."""
        if not self._opened and (self._secure or not self.ssl):
            self._socket = self._sock
            self._login_sent()
        super().write_packet(payload)

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 where there is none."""
        return self._sock.getsockname()[1] if self._sock is not None and self.unix_socket is None else 0

    def next_result(self, unbuffered: bool = False) -> int:
        """Read as PyMySQL does, within a statement's time."""
        self._allow(max(self._patience_s(), _SHORTEST_SECONDS))
        return super().next_result(unbuffered)

    def _execute_command(self, command: int, sql: str | bytes) -> None:
        """Send a command as PyMySQL does: guarded by the lease, and only while the session is in step."""
        self._refuse_if_late()
        sock = self._sock
        if sock is not None:
            if peer_has_closed(sock):
                raise self._gone()
            self._allow(self._answer_seconds if command == COMMAND.COM_QUERY else self._seconds_for(command))
            result = self._result
            if result is not None and (result.unbuffered_active or result.has_next):
                self._read_what_is_left()
            state = self._state
            if not state.is_ready:
                raise out_of_step()
            state.commands_sent()
            if isinstance(sql, str):
                sql = sql.encode(self.encoding)
            if len(sql) < _LARGE_BYTES and self._reader is not None:  # as PyMySQL does, by fewer calls
                self._next_seq_id = 1
                self._write_bytes(_COMMAND.pack(len(sql) + 1, command) + sql)
                return
        _execute_command(self, command, sql)

    def _seconds_for(self, command: int) -> float:
        """Return how long a command other than a query may take; note one whose effect a reset leaves as it is."""
        self._outlasts_reset |= command in _OUTLAST_RESET
        return PING_SECONDS if command == COMMAND.COM_PING else self._answer_seconds

    def _gone(self) -> err.OperationalError:
        """Close, and return why: nothing is sent to a server that has closed, where it might be at work."""
        self._force_close()
        return err.OperationalError(CR.CR_SERVER_GONE_ERROR, "MySQL server has gone away")

    def _allow(self, seconds: float) -> None:
        """Bound the sending of a command and its whole answer, until the next call of this."""
        if self._reader is not None:
            self._reader.allow(seconds)
            self._write_timeout = self._current_timeout = seconds  # newer PyMySQL remembers what it has set

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

    def _read_packet(self, packet_type: Callable[..., Any] = MysqlPacket) -> Any:  # noqa: ANN401 - what that returns
        state = self._state
        phase = state.phase
        if state.reading or phase in NO_PACKET_IS_DUE:  # `read_begun`, without a call for each row
            self._force_close()
            raise out_of_step()
        state.reading = True
        try:  # as PyMySQL reads, by fewer calls: it is done for each row
            reader = self._reader or self._reader_of_opening()
            at = reader.at
            if len(reader.buffer) < at + _HEADER_BYTES:
                reader.fill(_HEADER_BYTES)
                at = 0
            buffer = reader.buffer
            if buffer[at + 3] != self._next_seq_id:
                raise _wrong_number(buffer[at + 3])  # noqa: TRY301 - a function more for each row
            self._next_seq_id = (buffer[at + 3] + 1) & 0xFF
            size = buffer[at] | buffer[at + 1] << 8 | buffer[at + 2] << 16
            at += _HEADER_BYTES
            if len(buffer) < at + size:
                reader.at = at
                reader.fill(size)
                buffer, at = reader.buffer, 0
            content = buffer[at : at + size]
            reader.at = at + size
            if size == _LONGEST_PART:
                content += self._read_further_parts(reader)
        except OSError as error:
            self._force_close()
            raise _lost(f" ({error})") from error
        except BaseException:
            self._force_close()
            raise
        packet = packet_type(content, self.encoding)
        if content[0] < _END and (phase is _ROWS or phase is _COLUMNS):  # `received`, for what changes nothing
            state.reading = False
            return packet
        if content[0] == _ERROR:
            self._raise_error_of(MysqlPacket(content, self.encoding))
        state.received(content)
        return packet

    def _read_bytes_of_packet(self) -> bytes:
        """Return a packet as it came. Raises as `_read_packet`."""
        content: bytes = self._read_packet(_as_bytes)
        return content

    def _read_ok(self) -> None:
        """Read the answer to a command of our own, which has nothing but a status."""
        self._next_seq_id = 1  # each command starts a sequence of its own
        if self._read_bytes_of_packet()[0] != _OK:
            raise out_of_step()
        self.server_status = self._state.flags

    def _reader_of_opening(self) -> AnswerReader:
        """Return the reader of the socket as it is now: with TLS another socket takes the plain one's place."""
        if self._sock is None:
            raise _lost()
        if self._opening_reader is None or self._opening_reader.sock is not self._sock:
            self._opening_reader = AnswerReader(self._sock)
        return self._opening_reader

    def _read_further_parts(self, reader: AnswerReader) -> bytes:
        parts: list[bytes] = []
        while not parts or len(parts[-1]) == _LONGEST_PART:
            header = reader.take(_HEADER_BYTES)
            if header[3] != self._next_seq_id:
                raise _wrong_number(header[3])
            self._next_seq_id = (header[3] + 1) & 0xFF
            parts.append(reader.take(int.from_bytes(header[:3], "little")))
        return b"".join(parts)

    def _raise_error_of(self, packet: MysqlPacket) -> None:
        if self._result is not None:
            self._result.unbuffered_active = False
        try:
            packet.raise_for_error()
        except err.MySQLError as error:
            self._is_demoted = self._is_demoted or error.args[0] in READ_ONLY_ERRORS
            self._state.received(packet.get_all_data())  # type: ignore[no-untyped-call] # as the stubs have it
            explain(error)
            raise

    def _read_query_result(self, unbuffered: bool = False) -> int:
        affected = _read_query_result(self, unbuffered)
        if unbuffered and self._reader is not None:
            self._reader.allow_each(self._patience_s)  # the body may rest between two rows
        return affected

    def _write_bytes(self, data: bytes) -> None:
        reader = self._reader
        if len(data) > _LARGE_BYTES and reader is not None:  # also one of several that make up a statement
            left_s = reader.left_s
            self._write_timeout = self._read_timeout if left_s is None else max(left_s, _SHORTEST_SECONDS)
            reader.sent_slowly()
        _write_bytes(self, data)

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
        self._reader = self._opening_reader = None
        if self._rfile is not None:
            self._rfile.close()  # PyMySQL's own, unused: it would hold the socket open
        super()._force_close()
