"""What a worker uses: acquire a lease before a connection opens, and release it after the connection closes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connection_governor.client.acquire import LeaseClient
from connection_governor.client.invocation import holder_for_tenant, lambda_context
from connection_governor.client.keepalive import LONGEST_KEEP_S, Keeper, kept_fence
from connection_governor.client.request import DEFAULT_LEASE_MS, DEFAULT_TIMEOUT_S, LeaseRequest
from connection_governor.client.sessions import Sessions
from connection_governor.core import checks
from connection_governor.core.deadline import RESERVE_MS, Deadline
from connection_governor.database.fence import Fence
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.client.acquire import Transport
    from connection_governor.client.ports import Dependencies
    from connection_governor.core.deadline import InvocationContext
    from connection_governor.core.lease import Lease
    from connection_governor.core.status import DatabaseStatus


class Governor:
    """Governs the connections of one environment.

    Most workers use `Governor.from_env()`. Safe to share among threads.

    Args:
        transport: how the verbs reach the leases.
        dependencies: clock, randomness, log, and the opener of sessions.
        holder: this environment's name, up to 64 characters.
        database: the default database.
        fence: the limits of the sessions that `connection` opens, and so the margin of their leases.
        on_unavailable: "raise", or "open": connect without a lease when the governor cannot be reached.
        keep_seconds: how long a session may stay open between two bodies of `connection`; 0 closes it after each.
        reserve_ms: the time left of an invocation when its last wait and its last request have ended.
    """

    def __init__(
        self,
        transport: Transport,
        dependencies: Dependencies,
        *,
        holder: str,
        database: str | None = None,
        fence: Fence | None = None,
        on_unavailable: str = "raise",
        keep_seconds: int = 0,
        reserve_ms: int = RESERVE_MS,
    ) -> None:
        self._dependencies = dependencies
        self.clock = dependencies.clock
        self.holder = checks.holder_name(holder)
        self._database = database
        self.fence = fence or Fence()
        self._margin_ms = {frozen: self.fence.required_margin_ms(may_freeze=frozen) for frozen in (False, True)}
        self._keep_seconds = _keep_seconds(keep_seconds)
        self.lease_client = LeaseClient(
            transport,
            dependencies.clock,
            dependencies.entropy,
            dependencies.reporter,
            dependencies.lease_file,
            reserve_ms=reserve_ms,
        )
        self.sessions = Sessions(
            self.lease_client,
            dependencies.make_opener,
            dependencies.clock,
            dependencies.reporter,
            dependencies.lease_file,
            on_unavailable,
        )
        self._keeper = Keeper(self.lease_client, self.sessions, dependencies.clock)

    @classmethod
    def from_env(cls, *, fence: Fence | None = None) -> Governor:
        """Return a governor made from the environment's variables; `docs/reference.md` lists them.

        Raises:
            InvalidRequest: a variable is missing or wrong; `field` is its name.
        """
        from connection_governor.wiring import Environment, governor_parts  # noqa: PLC0415 - only where it is used

        environment = Environment.current()
        parts = governor_parts(environment)
        governor = cls(**parts, fence=fence)
        if environment.is_restored_from_snapshot:
            from connection_governor.client.snapstart import register  # noqa: PLC0415 - as above

            lease_file = parts["dependencies"].lease_file
            register(governor, lease_file, close_sockets=environment.close, new_holder=environment.holder)
        return governor

    def acquire(
        self,
        database: str | None = None,
        *,
        connections: int = 1,
        timeout: float = 0,
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> Lease:
        """Acquire a lease: the right to hold connections.

        Args:
            database: the governed database; default: the environment's.
            connections: how many, from 1 to the smallest shard's share.
            timeout: how long to wait, in seconds; 0: one try.
            lease_ms: the lease's length in milliseconds; default 30,000.
            holder: the holder's name; default: this environment's.
            context: the Lambda context: the wait then never passes the invocation's deadline, and unless `lease_ms` is
                given the lease lasts until the deadline plus the fence's margin.

        Raises:
            NoConnectionsLeft: no connection came back in time.
            GovernorUnavailable: the governor could not be reached.
            InvalidRequest: bad input; nothing was written.
            UnknownDatabase: no budget was ever set.
        """
        request = self.request(
            database, connections=connections, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context
        )
        return self._acquire(request)

    def renew(self, lease: Lease, *, lease_ms: int | None = None, context: InvocationContext | None = None) -> Lease:
        """Move the expiry to `lease_ms` from now (default 30,000) or past the context's deadline; never shorten it.

        Raises:
            LeaseLost: it is no longer held, or has expired: stop using its connections.
            NoConnectionsLeft: the budget was lowered below what is in use: the lease stays as it is until it expires.
            GovernorUnavailable: the governor could not be reached: until a renew succeeds, the old expiry counts.
        """
        request = self.request(lease.database, lease_ms=lease_ms, context=context)
        return self.lease_client.renew(lease, self.lease_end_ms(request), request.invocation)

    def release(self, lease: Lease, *, context: InvocationContext | None = None) -> bool:
        """Release the lease; repeating it does nothing more. With the Lambda context, no request outlasts it.

        Returns:
            Whether there was anything to release (also False after a lost answer).

        Raises:
            GovernorUnavailable: the governor could not be reached; the lease then expires.
        """
        return self.lease_client.release(lease, self._invocation(context))

    def status(self, database: str | None = None, *, context: InvocationContext | None = None) -> DatabaseStatus:
        """Return the leases and counts of a database, exact as of the read; `["remaining"]` reads its JSON form.

        Raises:
            UnknownDatabase: no budget was ever set.
            GovernorUnavailable: the governor could not be reached.
        """
        from connection_governor.core.status import DatabaseStatus  # noqa: PLC0415 - most workers never ask

        name = checks.database_name(self._named(database))
        return DatabaseStatus.of(self.lease_client.status(name, self._invocation(context)))

    def set_budget(self, database: str, allowed: int, **settings: int) -> DatabaseStatus:
        """Create a database's items, or change its budget. Needs the table (`GOVERNOR_TABLE`), whatever the transport.

        Args:
            database: its name.
            allowed: how many connections may be in use, from 0.
            settings: `shards`, `lease_ms`, `skew_ms`, `anonymous_lease_ms`, `opens_per_second`, `open_burst`; what is
                left out stays as it is.

        Returns:
            The status after it; `settled` is false if capacity has yet to come back before all can be granted.

        Raises:
            InvalidRequest: bad input; nothing was written.
            GovernorUnavailable: DynamoDB could not be reached.
        """
        if self._dependencies.operations is None:
            raise InvalidRequest("GOVERNOR_TABLE", "must be set in the environment to change a budget")
        from connection_governor.core.status import DatabaseStatus, status_report  # noqa: PLC0415 - most change none

        return DatabaseStatus.of(
            status_report(self._dependencies.operations().set_budget(database, allowed, **settings))
        )

    @contextmanager
    def lease(
        self,
        database: str | None = None,
        *,
        connections: int = 1,
        timeout: float = DEFAULT_TIMEOUT_S,
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> Iterator[Lease]:
        """Hold a lease for the body, for any driver; see `fence.Fence.session_settings` for what its sessions need.

        Close the connections before the body ends. Arguments and errors as for `acquire`.
        """
        request = self.request(
            database, connections=connections, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context
        )
        lease = self._acquire(request)
        process = os.getpid()
        try:
            yield lease
        finally:
            if process == os.getpid():  # else it belongs to the parent: a forked child also leaves the body
                self.lease_client.release_at_end(lease, request.invocation)

    @contextmanager
    def connection(
        self,
        database: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
        keep_seconds: int | None = None,
        **options: Any,  # noqa: ANN401 - the driver's
    ) -> Iterator[Any]:
        """Yield a governed connection of PyMySQL or psycopg: closed, and its lease released, however the body ends.

        With `keep_seconds` (default: the governor's own) above 0 it is reset instead, and kept for the next body: see
        `keepalive`. Without a context, `lease_ms` then is how long the body may take.
        Options of the session and the driver hold after a reset, too; any other is refused by name. MySQL: `charset`,
        `collation`, `autocommit`, `time_zone`, `sql_mode`, `conv`, `cursorclass`, `client_flag` and so on. PostgreSQL:
        `autocommit`, `settings`, `row_factory`, `cursor_factory`, `prepare_threshold`, `context`.
        Other arguments as for `acquire`. A statement is refused (`LeaseLost`) if the lease could expire before it ends.

        Raises:
            The driver's `OperationalError`: the database could not be reached or refused. The lease was released, or
                is left to expire if the session may live on.
            As `acquire`.
        """
        request = self.request(database, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context)
        driver = self.sessions.checked(options)
        keep_seconds = self._keep_seconds if keep_seconds is None else _keep_seconds(keep_seconds)
        if keep_seconds and self._keeper.is_worth_it(request.database):
            with self._keeper.connection(request, kept_fence(self.fence, keep_seconds), driver) as kept:
                yield kept
            return
        session = self.sessions.leased(driver)
        try:
            yield session.open(request, self.fence, self.session_end_ms(request))
            session.end()
        except BaseException:
            session.end()
            raise

    def connect(
        self,
        database: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
        **options: Any,  # noqa: ANN401 - the driver's
    ) -> Any:  # noqa: ANN401 - as `connection`
        """Return a governed connection for a pool or an ORM: its `close()` releases the lease.

        Arguments and errors as for `connection`.
        """
        request = self.request(database, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context)
        session = self.sessions.leased(self.sessions.checked(options))
        try:
            connection = session.open(request, self.fence, self.session_end_ms(request))
            connection.on_close = session.release_or_leave
        except BaseException:
            session.end()
            raise
        return connection

    def close(self) -> None:
        """Close the kept sessions, and those in use as soon as their bodies end; the governor can still be used."""
        self._keeper.give_up()

    def _acquire(self, request: LeaseRequest) -> Lease:
        return self.lease_client.acquire(request, lambda: self.lease_end_ms(request))

    def session_end_ms(self, request: LeaseRequest) -> Callable[[], int]:
        """Return a function that gives the expiry of a lease for one session, as of its call.

        Raises:
            InvalidRequest: too short for the fence.
        """
        needed_ms = self._margin_ms[request.may_freeze]
        by_length = (
            request.invocation is None or request.lease_ms is not None
        )  # else it reaches past the deadline by itself
        if by_length and (request.lease_ms or DEFAULT_LEASE_MS) <= needed_ms:
            raise InvalidRequest("lease_ms", f"must be above {needed_ms}, the time that the fence needs at its end")
        return lambda: self.lease_end_ms(request)

    def lease_end_ms(self, request: LeaseRequest) -> int:
        """Return the expiry of a lease that is asked for now."""
        return request.end_ms(self.clock, self._margin_ms[request.may_freeze])

    def _named(self, database: str | None) -> str:
        name = database or self._database
        if name is None:
            raise InvalidRequest("database", "is missing: pass one, or set GOVERNOR_DATABASE")
        return name

    def request(
        self,
        database: str | None = None,
        *,
        holder: str | None = None,
        timeout: float = 0,
        context: InvocationContext | None = None,
        **more: Any,  # noqa: ANN401 - see `LeaseRequest.of`
    ) -> LeaseRequest:
        """Return a checked request, for drivers of other kinds. Raises as `LeaseRequest.of` and `lambda_context`."""
        if context is not None:
            context = lambda_context(context)
        return LeaseRequest.of(
            self._named(database),
            holder=holder_for_tenant(self.holder, context) if holder is None else holder,
            timeout=timeout,
            invocation=Deadline.of_invocation(context, self.clock) if context is not None else None,
            stops_at_deadline=self._dependencies.stops_at_deadline,
            **more,
        )

    def _invocation(self, context: InvocationContext | None) -> Deadline | None:
        return Deadline.of_invocation(lambda_context(context), self.clock) if context is not None else None


def _keep_seconds(seconds: object) -> int:
    return checks.whole_number("keep_seconds", seconds, least=0, most=LONGEST_KEEP_S)
