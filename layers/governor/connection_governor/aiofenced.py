"""aiomysql's connection behind the same fence: opened by the same rules, guarded by its lease, closed for certain."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiomysql.connection import Connection
from pymysql import err
from pymysql.constants import CLIENT, CR, ER, SERVER_STATUS

from connection_governor.errors import LeaseLost
from connection_governor.farewell import CLOSE_SECONDS, GOODBYE
from connection_governor.fence import SessionStart, set_statement
from connection_governor.tls import context_for

if TYPE_CHECKING:
    from connection_governor.clock import Clock
    from connection_governor.fence import Fence
    from connection_governor.lease import Lease
    from connection_governor.mysql import Target
    from connection_governor.opening import Opener
    from connection_governor.secrets import Credentials

_STEPS = 3  # of opening, each with the target's limit: connect and TLS, sign in, set up


async def open_async(
    opener: Opener, fence: Fence, program_name: str, usable_until_ms: int | None
) -> AsyncFencedConnection:
    """Open a session behind the fence. Raises as `Opener.open`, with the newest credentials."""

    async def connect(credentials: Credentials) -> AsyncFencedConnection:
        connection = AsyncFencedConnection(
            opener.target, credentials, fence, program_name, usable_until_ms=usable_until_ms, clock=opener.clock
        )
        await connection.open()
        return connection

    tried = await asyncio.to_thread(opener.credentials.get, opener.secret_arn)
    try:
        return await connect(tried)
    except err.OperationalError as denied:
        if denied.args[0] != ER.ACCESS_DENIED_ERROR:
            raise
        newest = await asyncio.to_thread(opener.credentials.newer_than, tried, opener.secret_arn)
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
        """Say goodbye and wait up to `CLOSE_SECONDS` for the server's end of the stream."""
        if self._writer is None:
            return
        self._cut_off = self._in_transaction or (self._result is not None and self._result.unbuffered_active)
        reader = self._reader
        with suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                self._writer.write(GOODBYE)
                await self._writer.drain()
                while await reader.read(65_536):
                    pass
                self.let_go = True
        self._hang_up()

    @property
    def may_linger(self) -> bool:
        """As `FencedConnection.may_linger`: a query that was cancelled goes on without its client."""
        return self._cut_off and not self.let_go

    def close(self) -> None:
        """Drop the connection; see `take_leave` for the polite way."""
        self._cut_off = self._cut_off or self._in_transaction
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

    async def _execute_command(self, command: int, sql: str | bytes) -> None:
        if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:
            raise LeaseLost("too late to start a statement: its lease could end before the statement does")
        await super()._execute_command(command, sql)

    async def _read_query_result(self, unbuffered: bool = False) -> Any:  # noqa: ANN401 - aiomysql has no types
        """Within the time in which the server would have given up; aiomysql itself waits for ever."""
        try:
            async with asyncio.timeout(self.fence.read_seconds):
                return await super()._read_query_result(unbuffered)
        except TimeoutError as error:
            self._close_on_cancel()
            raise err.OperationalError(CR.CR_SERVER_LOST, "MySQL did not answer in time") from error
