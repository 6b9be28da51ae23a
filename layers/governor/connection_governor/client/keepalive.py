"""Keep a connection and its lease between invocations: without pressure, no request to DynamoDB and no opening.

At the end of each body the session is reset, and at the start of the next it is pinged. With

    K   how long a kept session may be idle, `keep_seconds`; the session's `wait_timeout` W is K (never less than
        the fence's own), so the database itself ends it that long after its last command, the reset
    E   the bound on one statement, its waits included

a body begins only under a lease that is confirmed until `deadline + E + W` or later. Lambda stops the body at its
`deadline`. So the last command begins by then and ends by `deadline + E`, and the database has closed the session by
`deadline + E + W`. That is before the lease's expiry, the earliest moment at which it may be reclaimed. Without a
context the body may be frozen at any moment, so statements are refused in the last `2W + E` of the lease instead.

A lease is acquired for longer than that, by `CALM_MS`, and renewed only when it no longer covers the next body. So a
busy environment calls DynamoDB at most that often. The answer also reports pressure. The environment then releases what
it kept at the end of the body, and works per invocation while it remembers the pressure. An environment that is never
invoked again does not learn of pressure: what it keeps comes back when its lease expires, at the latest
`E + W + CALM_MS` after the deadline of its last invocation.

A body takes the kept session out of its place, and puts one back when it ends: there is no lock that an exception could
leave behind. Of several bodies at the same time the first to end has its session kept; the others close theirs.

NOT kept: the session of a body that met a driver's error or a lost lease, that was interrupted, or that ended too late;
nor one that is not reset within `session.RESET_SECONDS`, or that chose a schema but was opened without.
Nothing is done when the interpreter exits: the socket closes, and the extension or the lease's expiry frees the slot.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connection_governor.client.sessions import usable_until_ms
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, LeaseLost, NoConnectionsLeft

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connection_governor.client.acquire import LeaseClient
    from connection_governor.client.ports import Session
    from connection_governor.client.request import LeaseRequest
    from connection_governor.client.sessions import LeasedSession, Sessions
    from connection_governor.core.clock import Clock
    from connection_governor.database.fence import Fence

LONGEST_KEEP_S = 300
FIRST_CALM_MS = 5_000  # a new holder checks again soon: it may have come at the beginning of a rush
CALM_MS = 40_000


class Keeper:
    """Keeps at most one session for each database.

    Args:
        lease_client: renews the leases, and remembers pressure.
        sessions: opens and closes sessions.
        clock: the leases' clock.
    """

    def __init__(self, lease_client: LeaseClient, sessions: Sessions, clock: Clock) -> None:
        self._lease_client = lease_client
        self._sessions = sessions
        self._clock = clock
        self._kept: dict[str, LeasedSession] = {}
        self._times_closed = 0

    def is_worth_it(self, database: str) -> bool:
        """Return whether to serve the next body: not under pressure, unless a session is kept."""
        return database in self._kept or not self._lease_client.is_pressed(database)

    @contextmanager
    def connection(self, request: LeaseRequest, fence: Fence, options: Mapping[str, Any]) -> Iterator[Session]:
        """Yield the kept session, or a new one, for one body; afterwards reset and keep it, or close it.

        Args:
            request: what to acquire.
            fence: with the kept session's idle limit, see `kept_fence`.
            options: the session's, as `Sessions.checked` returns them.

        Raises:
            As `LeasedSession.open`.
        """
        use, times_closed = _Use(), self._times_closed
        try:
            connection = self._prepared(use, request, fence, options)
            try:
                yield connection
            except Exception as error:
                if not isinstance(
                    error, (connection.driver_error, LeaseLost)
                ):  # it may have left what a reset does not undo
                    self._keep(use, connection, request.database, times_closed)
                raise
            self._keep(use, connection, request.database, times_closed)
            use.end()
        except BaseException:
            use.end()
            raise

    def give_up(self) -> None:
        """Close the kept sessions, and those in use as soon as their bodies end."""
        self._times_closed += 1
        use = _Use()
        while self._kept:
            try:
                _, use.session = self._kept.popitem()
                use.end()
            except KeyError:  # another thread was faster
                return
            except BaseException:
                use.end()
                raise

    def _prepared(self, use: _Use, request: LeaseRequest, fence: Fence, options: Mapping[str, Any]) -> Session:
        """Return the kept session, under a lease that covers this body, or a new one."""
        kept = use.session = self._kept.pop(request.database, None)
        if kept is not None and kept.connection is not None:
            kept.invocation = request.invocation
            try:
                if kept.options == options and self._is_usable(kept, kept.connection, request, fence):
                    return kept.connection
            except GovernorUnavailable:  # it was not used: another body may succeed with it
                self._put(use, request.database)
                raise
            use.end()
        session = use.session = self._sessions.leased(options)
        calm_ms = min(FIRST_CALM_MS, fence.idle_ms)
        return session.open(request, fence, lambda: _needed_ms(request, fence, self._clock) + calm_ms, is_kept=True)

    def _is_usable(self, session: LeasedSession, connection: Session, request: LeaseRequest, fence: Fence) -> bool:
        if not session.is_own or connection.fence != fence:  # a forked child must not act for its parent
            return False
        try:
            return self._covered(session, connection, request) and connection.is_alive()
        except LeaseLost:  # expired after a freeze, or taken over since
            return False

    def _covered(self, session: LeasedSession, connection: Session, request: LeaseRequest) -> bool:
        """Renew the lease if it does not cover this body; return whether it now does. Before the connection is used."""
        fence, lease = connection.fence, session.lease
        if lease is None:
            return False
        needed_ms = _needed_ms(request, fence, self._clock)
        if lease.expires_at_ms < needed_ms:
            try:
                lease = self._lease_client.renew(lease, needed_ms + min(CALM_MS, fence.idle_ms), request.invocation)
            except NoConnectionsLeft:  # a lowered budget is overdrawn: this one is released first
                return False
            except GovernorUnavailable as error:
                self._sessions.go_on_ungoverned(request, error)
                connection.usable_until_ms = None
                return True
            session.lease = connection.lease = lease
        connection.usable_until_ms = usable_until_ms(lease, fence, may_freeze=request.may_freeze)
        return True

    def _keep(self, use: _Use, connection: Session, database: str, times_closed: int) -> None:
        """Reset the session and keep it, if it should and can be kept."""
        if use.session is None or not use.session.is_own or times_closed != self._times_closed:
            return
        too_late = connection.usable_until_ms is None or self._clock.now_ms() > connection.usable_until_ms
        if connection.lease is None or not connection.open or too_late or self._lease_client.is_pressed(database):
            return
        try:
            connection.reset()
        except connection.driver_error:
            return
        self._put(use, database)

    def _put(self, use: _Use, database: str) -> None:
        if use.session is not None and self._kept.setdefault(database, use.session) is use.session:
            use.session = None


class _Use:
    """The session that one body must close, unless it is kept."""

    def __init__(self) -> None:
        self.session: LeasedSession | None = None

    def end(self) -> None:
        if self.session is not None:
            self.session.end()
        self.session = None


def kept_fence(fence: Fence, keep_seconds: int) -> Fence:
    """Return the fence of a session that may be idle for so long between two bodies."""
    return replace(fence, idle_seconds=max(keep_seconds, fence.idle_seconds))


def _needed_ms(request: LeaseRequest, fence: Fence, clock: Clock) -> int:
    """Return the earliest expiry of a lease under which a body may begin."""
    return request.last_use_ms(clock) + fence.required_margin_ms(may_freeze=request.may_freeze)
