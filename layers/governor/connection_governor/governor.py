"""What a worker uses: acquires before it opens a MySQL connection, and gives back after closing it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from connection_governor import checks
from connection_governor.emf import gauges
from connection_governor.errors import GovernorError, GovernorUnavailable, InvalidRequest, LeaseLost, NoConnectionsLeft
from connection_governor.fence import Fence
from connection_governor.lease import Grant, Lease, Refusal, Wanted
from connection_governor.operations import status_report
from connection_governor.waiting import Wait, deadline_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.clock import Clock
    from connection_governor.emf import Reporter
    from connection_governor.engine import Renewal
    from connection_governor.entropy import Entropy
    from connection_governor.mysql import FencedConnection
    from connection_governor.opening import Opener
    from connection_governor.operations import Operations
    from connection_governor.waiting import InvocationContext

DEFAULT_LEASE_MS = 30_000
DEFAULT_TIMEOUT_S = 2.0


class Transport(Protocol):
    """How the verbs reach the leases: `service.Service` in this process, or `remote.RemoteGovernor`."""

    def acquire(self, wanted: Wanted, *, waiting: bool | None = None, until_ms: int | None = None) -> Grant | Refusal:
        """Lend connections, or say that none is left."""

    def renew(self, lease: Lease, *, expires_at_ms: int) -> Renewal | Refusal | None:
        """Move a lease's end; None where it is not held any more, a refusal where a lowered budget is overdrawn."""

    def release(self, lease: Lease) -> bool:
        """Give a lease back; whether there was anything to give back."""

    def status(self, database: str) -> dict[str, Any]:
        """Who holds what."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What a governor needs of the world around it.

    Attributes:
        clock: tells the time that is written into leases.
        entropy: where lease ids and jitter come from.
        reporter: writes refusals and ungoverned connections to the log, as metrics.
        opener: makes the opener of MySQL sessions when the first is needed; None: `lease` only.
        operations: makes the operator's verbs when they are first needed; None: no `set_budget`.
    """

    clock: Clock
    entropy: Entropy
    reporter: Reporter
    opener: Callable[[], Opener] | None = None
    operations: Callable[[], Operations] | None = None


class Governor:
    """Governs the connections of one environment.

    Most workers use `Governor.from_env()`. Safe to share among threads.

    Args:
        transport: how the verbs reach the leases.
        outside: clock, randomness, log, and where MySQL is.
        holder: this environment's name, up to 64 characters.
        database: the default database.
        fence: the limits of the sessions that `connection` opens, and so the margin of their leases.
        on_unavailable: "raise", or "open": connect without a lease when the governor cannot be reached.
    """

    def __init__(
        self,
        transport: Transport,
        outside: Outside,
        *,
        holder: str,
        database: str | None = None,
        fence: Fence | None = None,
        on_unavailable: str = "raise",
    ) -> None:
        self._transport = transport
        self._outside = outside
        self._clock = outside.clock
        self._entropy = outside.entropy
        self._reporter = outside.reporter
        self._holder = checks.holder_name(holder)
        self._database = database
        self._fence = fence or Fence()
        self._opener: Opener | None = None
        self._on_unavailable = on_unavailable
        self._pointless: dict[str, tuple[int, Refusal]] = {}

    @classmethod
    def from_env(cls, *, fence: Fence | None = None) -> Governor:
        """A governor made from the environment's variables (see the contract's list).

        Raises:
            InvalidRequest: a variable is missing or wrong; `field` is its name.
        """
        from connection_governor.environment import Environment, governor_parts  # noqa: PLC0415 - only where it is used

        return cls(**governor_parts(Environment.current()), fence=fence)

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
        """Get the right to hold connections.

        Args:
            database: whose; default: the environment's.
            connections: how many, from 1 to the smallest shard's share.
            timeout: how long to wait for them, in seconds; 0: one try.
            lease_ms: how long to hold them, in milliseconds; default 30,000.
            holder: who; default: this environment.
            context: the Lambda context: the wait then never passes the invocation's deadline, and unless `lease_ms` is
                given the lease lasts until the deadline plus the fence's margin.

        Raises:
            NoConnectionsLeft: nothing came back in time.
            GovernorUnavailable: the governor could not be reached.
            InvalidRequest: bad input; nothing was written.
            UnknownDatabase: no budget was ever set.
        """
        database = self._named(database)
        checks.connection_count(connections)
        holder = self._holder if holder is None else checks.holder_name(holder)
        length_ms = None if lease_ms is None else checks.lease_length_ms(lease_ms)
        started_ms = self._clock.now_ms()
        wait = Wait(self._clock, self._entropy, give_up_ms=self._give_up_ms(timeout, context))
        outcome: Grant | Refusal | None = self._known_refusal(database)
        while True:
            if outcome is None:
                end_ms = self._end_ms(length_ms, context)
                wanted = Wanted(database, self._entropy.lease_id(), holder, connections, end_ms)
                outcome = self._transport.acquire(wanted, waiting=wait.looks_first, until_ms=wait.give_up_ms)
            if isinstance(outcome, Grant):
                self._pointless.pop(database, None)
                return outcome.lease
            if not wait.again(outcome.retry_after_ms):
                raise self._refused(database, holder, outcome, started_ms)
            outcome = None

    def renew(self, lease: Lease, *, lease_ms: int | None = None, context: InvocationContext | None = None) -> Lease:
        """Move the lease's end to `lease_ms` from now (default 30,000), or past the context's deadline; never earlier.

        Raises:
            LeaseLost: it is not held any more, or past its end: stop using its connections.
            NoConnectionsLeft: the budget was lowered below what is lent: the lease stays as it is until its end.
            GovernorUnavailable: the governor could not be reached: until a renew succeeds, the old end counts.
        """
        length_ms = None if lease_ms is None else checks.lease_length_ms(lease_ms)
        renewal = self._transport.renew(lease, expires_at_ms=self._end_ms(length_ms, context))
        if renewal is None:
            raise LeaseLost(f"lease {lease.lease_id} on {lease.database!r} is not held any more")
        if isinstance(renewal, Refusal):
            raise _no_connections_left(lease.database, renewal)
        return renewal.lease

    def release(self, lease: Lease) -> bool:
        """Give the lease back; repeating it does nothing more.

        Returns:
            Whether there was anything to give back (False, too, after a lost answer).

        Raises:
            GovernorUnavailable: the governor could not be reached; the lease then ends by itself.
        """
        self._pointless.pop(lease.database, None)
        return self._transport.release(lease)

    def status(self, database: str | None = None) -> dict[str, Any]:
        """Who holds what, exact as of its read: `database, allowed, in_use, remaining, leases, shards`.

        Raises:
            UnknownDatabase: no budget was ever set.
            GovernorUnavailable: the governor could not be reached.
        """
        return self._transport.status(self._named(database))

    def set_budget(self, database: str, allowed: int, **settings: int) -> dict[str, Any]:
        """Create a database's items, or change its budget. Needs the table (`GOVERNOR_TABLE`), whatever the transport.

        Args:
            database: which.
            allowed: how many connections may be lent, from 0.
            settings: `shards`, `lease_ms`, `skew_ms`, `anonymous_lease_ms`; what is left out stays as it is.

        Returns:
            The status after it; `settled` is false where capacity has yet to come back before all can be handed out.

        Raises:
            InvalidRequest: bad input; nothing was written.
            GovernorUnavailable: DynamoDB could not be reached.
        """
        if self._outside.operations is None:
            raise InvalidRequest("GOVERNOR_TABLE", "must be set in the environment to change a budget")
        return status_report(self._outside.operations().set_budget(database, allowed, **settings))

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
        lease = self.acquire(
            database, connections=connections, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context
        )
        try:
            yield lease
        finally:
            self._give_back(lease)

    @contextmanager
    def connection(
        self,
        database: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        lease_ms: int | None = None,
        holder: str | None = None,
        context: InvocationContext | None = None,
    ) -> Iterator[FencedConnection]:
        """A PyMySQL connection, governed: closed and given back at the end of the body, whatever happens in it.

        Arguments as for `acquire`. Statements are refused (`LeaseLost`) when the lease could end before they do.

        Raises:
            pymysql.err.OperationalError: MySQL could not be reached or refused; the lease has been given back.
            As `acquire`.
        """
        self._check_length(lease_ms, context)
        lease = self._lease_or_open(self._named(database), timeout, lease_ms, holder, context)
        acquired_ms = self._clock.now_ms()
        try:
            connection = self._open(lease, context)
        except BaseException:
            self._give_back(lease)
            raise
        connection.lease, connection.acquired_ms = lease, acquired_ms
        try:
            yield connection
        finally:
            connection.close()
            if not connection.may_linger:
                self._give_back(lease)

    def _open(self, lease: Lease | None, context: InvocationContext | None) -> FencedConnection:
        if self._opener is None:
            if self._outside.opener is None:
                raise InvalidRequest("DB_HOST", "must be set in the environment to open connections")
            self._opener = self._outside.opener()
        if lease is None:
            return self._opener.open(self._fence, "governor:none", None)
        # Lambda has stopped the holder at its deadline; other code may be frozen at any moment, so it stops earlier.
        margin_ms = self._fence.guard_ms if context is None else self._fence.margin_ms
        return self._opener.open(
            self._fence, f"governor:{lease.lease_id}:{lease.shard}", lease.expires_at_ms - margin_ms
        )

    def _lease_or_open(
        self,
        database: str,
        timeout: float,
        lease_ms: int | None,
        holder: str | None,
        context: InvocationContext | None,
    ) -> Lease | None:
        """A lease; None where the governor cannot be reached and this worker chose to connect all the same."""
        try:
            return self.acquire(database, timeout=timeout, lease_ms=lease_ms, holder=holder, context=context)
        except GovernorUnavailable as error:
            if self._on_unavailable != "open":
                raise
            self._reporter.ungoverned(database, str(error), now_ms=self._clock.now_ms(), holder=self._holder)
            return None

    def _give_back(self, lease: Lease | None) -> None:
        """Release at the end of a body: an outage must not hide the body's own result; the lease ends by itself."""
        if lease is None:
            return
        try:
            self.release(lease)
        except GovernorError as error:
            self._reporter.note(
                "lease left to expire", lease_id=lease.lease_id, database=lease.database, error=str(error)
            )

    def _refused(self, database: str, holder: str, refusal: Refusal, started_ms: int) -> NoConnectionsLeft:
        now_ms = self._clock.now_ms()
        self._pointless[database] = (now_ms + refusal.retry_after_ms, refusal)
        values = gauges(allowed=refusal.allowed, in_use=refusal.in_use, exact=not refusal.estimated)
        self._reporter.refused(
            database,
            values,
            took_ms=now_ms - started_ms,
            now_ms=now_ms,
            holder=holder,
            retry_after_ms=refusal.retry_after_ms,
        )
        return _no_connections_left(database, refusal)

    def _known_refusal(self, database: str) -> Refusal | None:
        """The last refusal, while a try is pointless: memory may refuse, never admit."""
        until_ms, refusal = self._pointless.get(database, (0, None))
        left_ms = until_ms - self._clock.now_ms()
        return replace(refusal, retry_after_ms=left_ms) if refusal is not None and left_ms > 0 else None

    def _named(self, database: str | None) -> str:
        return checks.database_name(database or self._database)

    def _give_up_ms(self, timeout: float, context: InvocationContext | None) -> int:
        give_up_ms = self._clock.now_ms() + checks.timeout_ms(timeout)
        return give_up_ms if context is None else min(give_up_ms, deadline_ms(context, self._clock))

    def _end_ms(self, lease_ms: int | None, context: InvocationContext | None) -> int:
        if lease_ms is None and context is not None:
            return deadline_ms(context, self._clock) + self._fence.margin_ms
        return self._clock.now_ms() + (lease_ms or DEFAULT_LEASE_MS)

    def _check_length(self, lease_ms: int | None, context: InvocationContext | None) -> None:
        if context is None and (lease_ms or DEFAULT_LEASE_MS) <= self._fence.guard_ms:
            raise InvalidRequest("lease_ms", f"must be above {self._fence.guard_ms}: what the fence needs at the end")


def _no_connections_left(database: str, refusal: Refusal) -> NoConnectionsLeft:
    return NoConnectionsLeft(
        database, retry_after_ms=refusal.retry_after_ms, allowed=refusal.allowed, in_use=refusal.in_use
    )
