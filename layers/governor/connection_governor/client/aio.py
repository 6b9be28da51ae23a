"""The same governor for asyncio, with aiomysql (`connection-governor[asyncio]`) or psycopg: nothing blocks the loop.

Requests for leases run in threads, a few milliseconds each. A task that waits for a connection sleeps in the loop. If
it is cancelled while it waits, it leaves nothing behind: a lease that arrives later is released in its thread.

Leases are released however the body ends, even if the loop ends meanwhile, provided it joins its executor as
`asyncio.run` does. The database continues with a query that was cancelled, or that still runs when its body ends: the
lease of such a session is left to expire. Each session is opened for one body and ended with it: none is kept here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from connection_governor.client.governor import Governor
from connection_governor.client.request import DEFAULT_TIMEOUT_S
from connection_governor.client.sessions import UNGOVERNED, usable_until_ms
from connection_governor.core.lease import Lease
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator

    from connection_governor.client.ports import AsyncSession
    from connection_governor.client.request import LeaseRequest
    from connection_governor.client.sessions import Sessions
    from connection_governor.core.deadline import Deadline, InvocationContext
    from connection_governor.core.status import DatabaseStatus
    from connection_governor.database.fence import Fence

T = TypeVar("T")


class AsyncGovernor:
    """A `Governor` for coroutines.

    Args:
        governor: does the work.
    """

    def __init__(self, governor: Governor) -> None:
        self._governor = governor
        self._lease_client = governor.lease_client
        self._sessions = governor.sessions

    @classmethod
    def from_env(cls, *, fence: Fence | None = None) -> AsyncGovernor:
        """Return a governor as `Governor.from_env` does."""
        return cls(Governor.from_env(fence=fence))

    async def acquire(
        self,
        database: str | None = None,
        *,
        connections: int = 1,
        timeout: float = 0,  # noqa: ASYNC109 - the same name as in `Governor`
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> Lease:
        """Acquire as `Governor.acquire` does."""
        request = self._governor.request(
            database, connections=connections, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context
        )
        return await self._acquire_lease(request)

    async def renew(
        self, lease: Lease, *, lease_ms: int | None = None, context: InvocationContext | None = None
    ) -> Lease:
        """Renew as `Governor.renew` does."""
        return await asyncio.to_thread(self._governor.renew, lease, lease_ms=lease_ms, context=context)

    async def release(self, lease: Lease, *, context: InvocationContext | None = None) -> bool:
        """Release as `Governor.release` does; once begun, it is completed even if this is cancelled."""
        return await _carried_out(partial(self._governor.release, lease, context=context))

    async def status(self, database: str | None = None, *, context: InvocationContext | None = None) -> DatabaseStatus:
        """Return the status as `Governor.status` does."""
        return await asyncio.to_thread(self._governor.status, database, context=context)

    @asynccontextmanager
    async def lease(
        self,
        database: str | None = None,
        *,
        connections: int = 1,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - as above
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> AsyncIterator[Lease]:
        """Hold a lease as `Governor.lease` does."""
        request = self._governor.request(
            database, connections=connections, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context
        )
        lease = await self._acquire_lease(request)
        try:
            yield lease
        finally:
            await self._release_at_end(lease, request.invocation)

    @asynccontextmanager
    async def connection(
        self,
        database: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - as above
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> AsyncIterator[Any]:
        """Yield a governed connection of aiomysql or psycopg: closed, and its lease released, however the body ends.

        Arguments as for `Governor.connection`.

        Raises:
            The driver's `OperationalError`: the database could not be reached or refused. The lease was released, or
                is left to expire if the session may live on.
            As `Governor.acquire`.
        """
        governor = self._governor
        request = governor.request(database, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context)
        held = _Held(self._sessions, request.invocation)
        try:
            self._sessions.opener()  # before the lease: to load a driver takes a cold environment up to a second
            held.lease = await self._lease_or_none(request)
            connection = held.connection = self._new_session(held.lease, request)
            await connection.open()
            if held.lease is not None and held.lease.taken_over:
                await self._end_overdue(connection, held.lease)
            yield connection
            await held.end()
        except BaseException:
            await held.end()
            raise

    def _new_session(self, lease: Lease | None, request: LeaseRequest) -> AsyncSession:
        opener, fence = self._sessions.opener(), self._governor.fence
        if lease is None:
            return opener.new_async_session(fence, UNGOVERNED, None, request.invocation)
        usable_ms = usable_until_ms(lease, fence, may_freeze=request.may_freeze)
        connection = opener.new_async_session(fence, lease.session_name, usable_ms, request.invocation)
        connection.lease = lease
        self._sessions.watch(connection, lease)
        return connection

    async def _end_overdue(self, connection: AsyncSession, lease: Lease) -> None:
        """As `sessions.LeasedSession.open` ends them; a connection that was lost meanwhile fails the body's command."""
        with suppress(connection.driver_error):
            self._sessions.note_ended(lease, await connection.end_sessions(lease.taken_over))

    async def _lease_or_none(self, request: LeaseRequest) -> Lease | None:
        """Return a lease; None if the governor cannot be reached and this worker chose to connect all the same."""
        try:
            return await self._acquire(request, self._governor.session_end_ms(request))
        except GovernorUnavailable as error:
            self._sessions.go_on_ungoverned(request, error)
            return None

    async def _release_at_end(self, lease: Lease, invocation: Deadline | None) -> None:
        await _carried_out(self._lease_client.release_at_end, lease, invocation)

    async def _acquire_lease(self, request: LeaseRequest) -> Lease:
        return await self._acquire(request, lambda: self._governor.lease_end_ms(request))

    async def _acquire(self, request: LeaseRequest, end_ms: Callable[[], int]) -> Lease:
        steps = self._lease_client.acquiring(request, end_ms)
        while True:
            step = await _UndoableCall(lambda: _next(steps), lambda step: self._unwanted(step, steps)).result()
            if isinstance(step, Lease):
                return step
            try:
                await asyncio.sleep(step)
            except BaseException:  # a task cancelled while it waits for its token releases its lease
                await _carried_out(steps.close)
                raise

    def _unwanted(self, step: float | Lease, steps: Generator[float, None, Lease]) -> None:
        if isinstance(step, Lease):
            self._lease_client.release_at_end(step)
        else:
            steps.close()


class _Held:
    """One body's lease and session. See `sessions.LeasedSession`."""

    def __init__(self, sessions: Sessions, invocation: Deadline | None) -> None:
        self.lease: Lease | None = None
        self.connection: AsyncSession | None = None
        self._sessions = sessions
        self._invocation = invocation
        self._process = os.getpid()
        self._leaving: asyncio.Future[None] | None = None
        self._releasing: list[asyncio.Future[None]] = []

    async def end(self) -> None:
        """Close in order, then release; both are completed even if this is cancelled, or the loop ends meanwhile."""
        if self._process != os.getpid():  # a forked child: everything belongs to its parent
            if self.connection is not None:
                self.connection.drop()
            return
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._leave())
            self._leaving.add_done_callback(self._finish)  # first of all: later callbacks find it done
        await asyncio.shield(self._leaving)
        for one in self._releasing:
            await one

    async def _leave(self) -> None:
        if self.connection is not None:
            await self.connection.take_leave()

    def _finish(self, _left: asyncio.Future[None]) -> None:
        if self.connection is not None:
            self.connection.drop()  # if it could not be closed in order
        if self.lease is not None:
            lingers = self.connection is not None and self.connection.may_linger
            release = partial(
                self._sessions.release_or_leave, self.lease, may_linger=lingers, invocation=self._invocation
            )
            self._releasing.append(_carried_out(release))


class _UndoableCall(Generic[T]):
    """A call in a thread, whose result is undone there if no task waits for it any more.

    Args:
        call: what to do.
        undo: what to do with the result of a call that was cancelled.
    """

    def __init__(self, call: Callable[[], T], undo: Callable[[T], None]) -> None:
        self._call = call
        self._undo = undo
        self._lock = threading.Lock()
        self._unwanted = False
        self._results: list[T] = []

    async def result(self) -> T:
        """Return the call's result; if this is cancelled, the call has not begun, or is undone when it ends."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(None, self._run)
        except asyncio.CancelledError:
            with self._lock:
                self._unwanted = True
                results = self._results
            if results:
                loop.run_in_executor(None, self._undo, results[0])
            raise

    def _run(self) -> T:
        result = self._call()
        with self._lock:
            unwanted = self._unwanted
            self._results.append(result)
        if unwanted:
            self._undo(result)
        return result


def _carried_out(call: Callable[..., T], *values: object) -> asyncio.Future[T]:
    """Return the result of a call that begins in a thread at once, and ends there: no cancellation reaches it."""
    return asyncio.shield(asyncio.get_running_loop().run_in_executor(None, call, *values))


def _next(steps: Generator[float, None, T]) -> float | T:
    try:
        return next(steps)
    except StopIteration as done:
        returned: T = done.value
        return returned
