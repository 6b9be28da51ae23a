"""aiomysql's connection behind the same fence: opened by the same rules, guarded by its lease, closed for certain."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aiomysql.connection import Connection, MysqlPacket
from pymysql import err
from pymysql.constants import CLIENT, CR, ER, SERVER_STATUS

from connection_governor.errors import LeaseLost
from connection_governor.mysql.close import CLOSE_SECONDS, GOODBYE
from connection_governor.mysql.fence import SessionStart, set_statement
from connection_governor.mysql.tls import context_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease
    from connection_governor.mysql.connect import Target
    from connection_governor.mysql.credentials import Credentials
    from connection_governor.mysql.fence import Fence
    from connection_governor.mysql.opener import Opener

_STEPS = 3  # of opening, each with the target's limit: connect and TLS, sign in, set up


async def open_async(
    opener: Opener, fence: Fence, program_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
) -> AsyncFencedConnection:
    """Open a session behind the fence. Raises as `Opener.open`, with the newest credentials."""

    async def connect(credentials: Credentials) -> AsyncFencedConnection:
        connection = AsyncFencedConnection(
            opener.target, credentials, fence, program_name, usable_until_ms=usable_until_ms, clock=opener.clock
        )
        await connection.open()
        return connection

    tried = await asyncio.to_thread(opener.credentials.get, opener.secret_arn, deadline)
    try:
        return await connect(tried)
    except err.OperationalError as denied:
        if denied.args[0] != ER.ACCESS_DENIED_ERROR:
            raise
        newest = await asyncio.to_thread(opener.credentials.newer_than, tried, opener.secret_arn, deadline)
        if newest == tried:
            raise
    return await connect(newest)


class AsyncFencedConnection(Connection):  # type: ignore[misc] # aiomysql has no types
    """As `fenced.FencedConnection`, for coroutines.

    Attributes:
        fence: the session's limits.
        usable_until_ms: statements are refused after this moment.
        lease: what it was opened under.
        let_go: after the end: whether the server is known to have closed its side.
    """

    server_status = 0  # aiomysql has none before the server's first word

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        fence: Fence,
        program_name: str,
        *,
        usable_until_ms: int | None,
        clock: Clock,
    ) -> None:
        self.fence = fence
        self.usable_until_ms = usable_until_ms
        self.lease: Lease | None = None
        self.let_go = False
        self._target = target
        self._now_ms = clock.now_ms
        self._cut_off = False
        self._unanswered = 0
        self._is_timed = False
        self._start = SessionStart()
        super().__init__(
            host=target.host,
            port=target.port,
            db=target.database,
            user=credentials.username,
            password=credentials.password.encode().decode("latin-1"),  # aiomysql encodes it so: UTF-8 goes out
            charset=self._start.charset,
            autocommit=None,
            connect_timeout=target.connect_seconds,
            program_name=program_name,
            ssl=context_for(target.tls, target.tls_ca, target.host),
        )

    async def open(self) -> None:
        """Connect, sign in and put the fence up.

        Raises:
            pymysql.err.OperationalError: MySQL could not be reached in time, or refused.
        """
        try:
            async with asyncio.timeout(self._target.connect_seconds * _STEPS):
                await self._connect()
                is_mariadb = "mariadb" in self.server_version.lower()
                await self.query(set_statement(self.fence, self._start, is_mariadb=is_mariadb))
        except TimeoutError as error:
            self.close()
            raise err.OperationalError(CR.CR_CONN_HOST_ERROR, "MySQL did not answer in time") from error
        except BaseException:
            self.close()
            raise

    async def take_leave(self) -> None:
        """Say goodbye and wait up to `CLOSE_SECONDS` for the server's end of the stream.

        Where a command is still unanswered, another task may be reading: hang up, and the lease is left to expire.
        """
        if self._writer is None:
            return
        in_a_result = self._result is not None and self._result.unbuffered_active
        self._cut_off = bool(self._in_transaction or self._unanswered or in_a_result)
        try:
            if not self._unanswered:
                await self._say_goodbye(self._reader, self._writer)
        finally:
            self._hang_up()

    async def _say_goodbye(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):  # RuntimeError: another task is reading a row
            async with asyncio.timeout(CLOSE_SECONDS):
                writer.write(GOODBYE)
                await writer.drain()
                while await reader.read(65_536):
                    pass
                self.let_go = True

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 where there is none."""
        return 0 if self._writer is None else self._writer.get_extra_info("sockname")[1]

    @property
    def may_linger(self) -> bool:
        """As `FencedConnection.may_linger`: a command that is cancelled, or left alone, goes on without its client."""
        return self._cut_off and not self.let_go

    def close(self) -> None:
        """Drop the connection; see `take_leave` for the polite way."""
        if self._writer is not None:
            self._cut_off = bool(self._cut_off or self._in_transaction or self._unanswered)
            self.let_go = _has_ended(self._reader) and not self._in_transaction
        self._hang_up()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # a TLS transport's own close waits for the server, up to 30 s
        super().close()

    async def ensure_closed(self) -> None:
        """As aiomysql's; waits for the server."""
        await self.take_leave()

    async def ping(self, reconnect: bool = False) -> None:
        """As aiomysql's; a session lives and dies with one lease, so it is never reopened."""
        del reconnect
        await super().ping(reconnect=False)

    @property
    def _in_transaction(self) -> bool:
        return bool(self.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    def _close_on_cancel(self) -> None:
        self._cut_off = True  # MySQL goes on with the statement
        super()._close_on_cancel()

    async def _request_authentication(self) -> None:
        if self._ssl_context is not None and not self.server_capabilities & CLIENT.SSL:
            raise err.OperationalError(CR.CR_SSL_CONNECTION_ERROR, "TLS is required, and the server does not offer it")
        await super()._request_authentication()

    async def show_warnings(self) -> Any:  # noqa: ANN401 - whatever rows aiomysql returns
        """As aiomysql's."""
        warnings = await super().show_warnings()
        self._unanswered -= 1
        return warnings

    async def set_charset(self, charset: str) -> None:
        """As aiomysql's."""
        await super().set_charset(charset)
        self._unanswered -= 1

    async def next_result(self) -> Any:  # noqa: ANN401 - aiomysql has no types
        """As aiomysql's."""
        self._unanswered += 1
        return await super().next_result()

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:
            raise LeaseLost("too late to start a statement: its lease could end before the statement does")
        self._unanswered += 1
        try:
            await super()._execute_command(command, sql)
        except err.MySQLError:  # of the last command's results: this one was not sent
            self._unanswered -= 1
            raise

    async def _read_ok_packet(self) -> Any:  # noqa: ANN401 - aiomysql has no types
        with self._answer():
            return await super()._read_ok_packet()

    async def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ANN401 - aiomysql has no types
        with self._answer():
            async with self._in_time():
                return await super()._read_query_result(unbuffered)

    async def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> Any:  # noqa: ANN401 - as above
        if self._is_timed:  # a result, as a whole
            return await super()._read_packet(packet_type)
        async with self._in_time():
            return await super()._read_packet(packet_type)

    @contextmanager
    def _answer(self) -> Iterator[None]:
        """An answer is read to its end, or is an error; whatever else ends the reading leaves it unread."""
        try:
            yield
        except err.MySQLError:
            self._unanswered -= 1
            raise
        self._unanswered -= 1

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Within the time in which the server would have given up; aiomysql itself waits for ever."""
        self._is_timed = True
        try:
            async with asyncio.timeout(self.fence.read_seconds):
                yield
        except TimeoutError as error:
            self._close_on_cancel()
            raise err.OperationalError(CR.CR_SERVER_LOST, "MySQL did not answer in time") from error
        finally:
            self._is_timed = False


def _has_ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server has ended the stream, and all that it said was read."""
    return reader.at_eof() or isinstance(reader.exception(), ConnectionResetError)
