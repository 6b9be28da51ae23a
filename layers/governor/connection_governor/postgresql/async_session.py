"""A psycopg connection for coroutines behind the same fence: opened by the same steps, guarded by its lease."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import waiting

from connection_governor.postgresql import login
from connection_governor.postgresql.commands import carried_out
from connection_governor.postgresql.governed import GovernedSession
from connection_governor.postgresql.wire import CLOSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection

    from psycopg.abc import PQGen

    from connection_governor.core.deadline import Deadline
    from connection_governor.database.credentials import Login
    from connection_governor.database.fence import Fence
    from connection_governor.postgresql.opener import Opener


class AsyncFencedConnection(GovernedSession, psycopg.AsyncConnection[Any]):
    """As `session.FencedConnection`, for coroutines; it is neither reset nor kept."""

    def __init__(
        self,
        opener: Opener,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
    ) -> None:
        """Make a session that is not open yet: nothing is sent before `open`."""
        self._govern(opener, fence, session_name, usable_until_ms, deadline, {})
        self._attempts = opener.attempts(deadline)

    async def open(self) -> None:
        """Connect, and sign in with the newest credentials.

        Raises:
            psycopg.OperationalError: PostgreSQL could not be reached in time, or refused.
            LeaseLost: it took until after `usable_until_ms`.
        """
        attempts = self._attempts()
        credentials = await asyncio.to_thread(next, attempts)
        while not self.is_open:
            try:
                await self._sign_in_patiently(credentials)
            except psycopg.OperationalError as denied:
                credentials = await asyncio.to_thread(attempts.throw, denied)

    async def _sign_in_patiently(self, credentials: Login) -> None:
        while not self.is_open:
            self._patience.begin()
            try:
                await self._sign_in(credentials)
            except psycopg.OperationalError:
                if not self._may_try_again():
                    raise

    async def _sign_in(self, credentials: Login) -> None:
        """Try the addresses of the host in turn, until one answers."""
        failed = self._not_found()
        for address in await self._addresses():
            try:
                steps = self._signing_in(address, credentials)
                pgconn = await waiting.wait_conn_async(steps, interval=login.STEPS_INTERVAL_S)
            except psycopg.OperationalError as error:
                if error.sqlstate is not None:  # the server's own word
                    raise
                failed = error
            else:
                psycopg.AsyncConnection.__init__(self, pgconn)
                self._accepted()
                if not self._rules.prepares:
                    self.prepare_threshold = None
                return
        raise failed

    async def _addresses(self) -> list[str]:
        host, port = self._target.host, self._target.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
        except OSError as error:
            raise self._not_found() from error
        return login.addresses(found)

    async def wait(self, gen: PQGen[Any], *args: Any, **more: Any) -> Any:  # noqa: ANN401 - psycopg's own
        """Wait as psycopg does, for whatever it sends and reads: guarded by the lease, and bounded in time."""
        answer = await super().wait(self._guarded(gen), *args, **more)
        self._rested()
        return answer

    async def end_sessions(self, names: Collection[str]) -> int:
        """End sessions as `session.FencedConnection.end_sessions` does."""
        from connection_governor.postgresql.observe import END_NAMED, named  # noqa: PLC0415 - few sessions end others

        if not self._rules.says_more:
            return 0
        self._refuse_if_late()
        self._refuse_if_not_ready()
        async with self.lock:
            steps = carried_out(self.pgconn, [END_NAMED], named(names))
            (result,) = await super().wait(self._bounded(steps, self._patience_s()))
        ended: int = result.ntuples
        return ended

    async def take_leave(self) -> None:
        """Say goodbye, and wait up to `wire.CLOSE_SECONDS` for the server to have ended the session."""
        end = self._say_goodbye()
        if end is not None:
            try:
                self._forget_wire(has_ended=self._has_session and await _peer_closes(end))
            finally:
                self.drop()

    async def close(self) -> None:
        """Close the connection in order; the lease is released by the body that it was opened for."""
        await self.take_leave()

    def drop(self) -> None:
        """Leave without a wait."""
        self._drop()


async def _peer_closes(wire: socket.socket) -> bool:
    """As `wire.peer_closes`, without blocking the loop."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        wire.shutdown(socket.SHUT_WR)
    wire.setblocking(False)
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            while await loop.sock_recv(wire, 65_536):
                pass
    except ConnectionResetError:
        return True
    except OSError:  # TimeoutError is one
        return False
    return True
