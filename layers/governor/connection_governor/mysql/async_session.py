"""An aiomysql connection behind the same fence: opened by the same rules, guarded by its lease, closed in order."""

from __future__ import annotations

import asyncio
import os
import warnings
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from aiomysql.connection import Connection, MysqlPacket
from pymysql import err
from pymysql.constants import CLIENT, CR

from connection_governor.errors import GovernorError
from connection_governor.mysql.close import CLOSE_SECONDS, GOODBYE, peer_has_closed, reply_in
from connection_governor.mysql.fence import SessionStart, set_statement
from connection_governor.mysql.governed import GovernedSession, explain, out_of_step, plugin_needs_tls
from connection_governor.mysql.plugins import plugin_in
from connection_governor.mysql.state import Phase, Reply
from connection_governor.mysql.tls import context_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from connection_governor.core.deadline import Deadline
    from connection_governor.database.credentials import Login
    from connection_governor.database.fence import Fence
    from connection_governor.mysql.opener import Opener

_STEPS = 3  # the steps of opening, each with the target's limit: connect and TLS, sign in, set up
_ERROR = b"\xff"


class AsyncFencedConnection(GovernedSession, Connection):  # type: ignore[misc] # aiomysql has no types
    """As `session.FencedConnection`, for coroutines.

    Args:
        opener: target and credentials.
        fence: the session's limits.
        program_name: see `Lease.session_name`.
        usable_until_ms: no statement is started later.
        deadline: no request for the credentials outlasts it, nor the wait for a silent server, see `patience`.
    """

    server_status = 0  # aiomysql has none before the server's first packet
    _result: Any
    _reader: Any
    _writer: Any

    def __init__(
        self,
        opener: Opener,
        fence: Fence,
        program_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
    ) -> None:
        """Make a session that is not open yet: nothing is sent before `open`."""
        self._govern(fence, usable_until_ms, opener.clock)
        self._attempts = opener.attempts(deadline)
        self._is_timed = False
        self._start = SessionStart()
        target = opener.target
        self._patience = target.patience(deadline, opener.clock)
        super().__init__(
            host=target.host,
            port=target.port,
            db=target.database,
            charset=self._start.charset,
            autocommit=None,
            connect_timeout=target.connect_seconds,
            program_name=program_name,
            ssl=context_for(target.tls, target.tls_ca, target.host),
        )

    async def open(self) -> None:
        """Connect, sign in with the newest credentials, and set the fence.

        Raises:
            pymysql.err.OperationalError: MySQL could not be reached in time, or refused.
            LeaseLost: it took until after `usable_until_ms`.
        """
        attempts = self._attempts()
        credentials = await asyncio.to_thread(next, attempts)
        while not self._opened:
            try:
                await self._sign_in(credentials)
            except err.OperationalError as denied:
                credentials = await asyncio.to_thread(attempts.throw, denied)

    async def _sign_in(self, credentials: Login) -> None:
        """Sign in, and try again where a server that has heard no login was silent, see `patience`."""
        while not self._opened:
            self._patience.begin()
            try:
                await self._attempt(credentials)
            except err.OperationalError:
                if self._state.phase is not Phase.CONNECTING or not self._patience.has_another:
                    raise

    async def _attempt(self, credentials: Login) -> None:
        self._begin()
        left_s = self._patience.left_s
        if left_s is not None:
            self.connect_timeout = left_s
        self._secure = False  # an earlier attempt may have begun TLS
        self._credentials = credentials
        self._user = credentials.username
        self._password = credentials.password.encode().decode("latin-1")  # aiomysql encodes it so: UTF-8 goes out
        try:
            async with asyncio.timeout(left_s or self.connect_timeout * _STEPS):
                await self._connect()
                is_mariadb = "mariadb" in self.server_version.lower()
                await self.query(set_statement(self.fence, self._start, is_mariadb=is_mariadb))
        except TimeoutError as error:
            self.close()
            raise err.OperationalError(CR.CR_CONN_HOST_ERROR, "MySQL did not answer in time") from error
        except (err.MySQLError, OSError, GovernorError, asyncio.CancelledError):
            self.close()
            raise
        except BaseException:
            # Before TLS aiomysql copies the socket (`dup`). Where it is interrupted with the copy in hand, nothing here
            # can close that, so the session counts as signing in: its lease is left to expire.
            self._state.login_sent()
            self.close()
            raise
        self._opened = True

    async def end_sessions(self, names: Collection[str]) -> int:
        """End sessions as `session.FencedConnection.end_sessions` does."""
        from connection_governor.mysql.observe import own_sessions_query  # noqa: PLC0415 - few sessions end others

        await self.query(own_sessions_query(names))
        ended = 0
        for (number,) in self._result.rows:
            with suppress(err.MySQLError):  # it has ended meanwhile
                await self.query(f"KILL CONNECTION {int(number)}")
                ended += 1
        await self.rollback()
        return ended

    async def take_leave(self) -> None:
        """Send COM_QUIT and wait up to `CLOSE_SECONDS` for the server's end of the stream."""
        reader, writer = self._reader, self._writer
        if writer is None or self._is_copy:
            self.close()
            return
        try:
            if self._state.may_send_goodbye and not self._peer_has_closed():
                self._state.goodbye_sent()
                self._state.goodbye_answered(await _send_goodbye(reader, writer))
        finally:
            self.close()

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 if there is none."""
        return 0 if self._writer is None else self._writer.get_extra_info("sockname")[1]

    def close(self) -> None:
        """Drop the connection; `take_leave` closes it in order."""
        if self._writer is not None and self._is_copy:
            _close_copy(self._writer)
            self._reader = self._writer = None
        if self._writer is not None:
            if self._peer_has_closed():
                self._state.server_closed()
            self._state.cut_off()
            self._writer.transport.abort()  # a TLS transport's own close waits for the server, up to 30 s
        super().close()

    def drop(self) -> None:
        """Drop the connection, as aiomysql's `close` does."""
        self.close()

    async def ensure_closed(self) -> None:
        """Close as aiomysql does; wait for the server."""
        await self.take_leave()

    async def ping(self, reconnect: bool = False) -> None:
        """Ping as aiomysql does; a session lives and dies with one lease, so it is never reopened."""
        del reconnect
        await super().ping(reconnect=False)

    def write_packet(self, payload: bytes) -> None:
        """Write as aiomysql does; report the login, which is the first packet after TLS has begun."""
        if not self._opened and (self._secure or self._ssl_context is None):
            self._login_sent()
        super().write_packet(payload)

    async def _request_authentication(self) -> None:
        if self._ssl_context is not None and not self.server_capabilities & CLIENT.SSL:
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, and the server does not offer it")
        greeting = self._server_auth_plugin.encode()
        self._refuse_plugin(greeting, is_secure=self._ssl_context is not None)
        try:
            await super()._request_authentication()
        except RuntimeError as error:
            self._state.login_given_up()
            raise plugin_needs_tls() from error

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        self._refuse_if_late()
        if self._writer is not None:
            self._refuse_if_gone()
            await self._read_what_is_left()
            self._refuse_if_out_of_step()
            self._state.commands_sent()
        await super()._execute_command(command, sql)

    def _refuse_if_gone(self) -> None:
        """Send nothing to a server that has closed: a command without an answer might still run."""
        if self._peer_has_closed():
            self.close()
            raise err.OperationalError(CR.CR_SERVER_GONE_ERROR, "MySQL server has gone away")

    async def _read_what_is_left(self) -> None:
        """Read the rest of the last command's results, as aiomysql does before the next command."""
        if self._result is None:
            return
        if self._result.unbuffered_active:
            warnings.warn("Previous unbuffered result was left incomplete", stacklevel=2)
            await self._result._finish_unbuffered_query()  # noqa: SLF001 - as aiomysql's connection
        while self._result.has_next:
            await self.next_result()
        self._result = None

    async def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ANN401 - aiomysql has no types
        async with self._in_time():
            return await super()._read_query_result(unbuffered)

    async def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> Any:  # noqa: ANN401 - as above
        if self._is_timed:  # a result, as a whole
            return await self._read_one(packet_type)
        async with self._in_time():
            return await self._read_one(packet_type)

    async def _read_one(self, packet_type: type[MysqlPacket]) -> Any:  # noqa: ANN401 - as above
        if not self._state.read_begun():
            self.close()
            raise out_of_step()
        try:
            packet = await super()._read_packet(packet_type)
        except err.MySQLError as error:
            if self._writer is not None:  # else the stream has ended
                self._state.received(_ERROR)
            explain(error)
            raise
        if self._state.phase is Phase.LOGIN and packet.is_auth_switch_request():
            self._refuse_plugin(plugin_in(packet.get_all_data()), is_secure=self._secure)
        self._state.received(packet.get_all_data())
        return packet

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Wait no longer than the server may take before it gives up; aiomysql itself waits without a limit."""
        self._is_timed = True
        try:
            async with asyncio.timeout(max(self._patience_s(), 0)):
                yield
        except TimeoutError as error:
            self._close_on_cancel()
            raise err.OperationalError(CR.CR_SERVER_LOST, "MySQL did not answer in time") from error
        finally:
            self._is_timed = False

    def _peer_has_closed(self) -> bool:
        """Return whether the server has ended the stream."""
        ended = self._reader.at_eof() or isinstance(self._reader.exception(), ConnectionResetError)
        return ended or peer_has_closed(self._writer.get_extra_info("socket"))


async def _send_goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply:
    reply = Reply.NOTHING
    with suppress(OSError, RuntimeError):  # RuntimeError: another task is reading a row
        async with asyncio.timeout(CLOSE_SECONDS):
            writer.write(GOODBYE)
            await writer.drain()
            while heard := await reader.read(65_536):
                reply = reply_in(heard) if reply is Reply.NOTHING else reply
            return Reply.END
    return reply


def _close_copy(writer: asyncio.StreamWriter) -> None:
    """Close a forked child's descriptor, and touch neither the stream nor the loop: its parent uses both."""
    wrapped = writer.get_extra_info("socket")
    with suppress(OSError):
        os.close(wrapped._sock.detach())  # noqa: SLF001 - asyncio shows less of a socket than it has
