"""Opens MySQL sessions, each under a lease of its own, and ends the two together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.errors import GovernorUnavailable, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.client.acquire import Borrower
    from connection_governor.client.lease_file import HasPort, Notes
    from connection_governor.client.request import Ask
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease
    from connection_governor.metrics import Reporter
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.fence import Fence
    from connection_governor.mysql.opener import Opener

UNGOVERNED = "governor:none"


class Sessions:
    """One environment's way to MySQL.

    Args:
        borrower: lends the right to open.
        opener: makes the opener of sessions when the first is needed; None: there is none.
        clock: the leases' clock.
        reporter: writes ungoverned connections to the log, as metrics.
        notes: tells the extension which socket belongs to which lease.
        on_unavailable: "raise", or "open": connect without a lease when the governor cannot be reached.
    """

    def __init__(
        self,
        borrower: Borrower,
        opener: Callable[[], Opener] | None,
        clock: Clock,
        reporter: Reporter,
        notes: Notes,
        on_unavailable: str,
    ) -> None:
        self._borrower = borrower
        self._make_opener = opener
        self._opener: Opener | None = None
        self._clock = clock
        self._reporter = reporter
        self._notes = notes
        self._on_unavailable = on_unavailable

    def begin(self, ask: Ask, fence: Fence, end_ms: Callable[[], int]) -> FencedConnection:
        """Acquire a lease until `end_ms()`, and open a session under it.

        Raises:
            pymysql.err.OperationalError: MySQL could not be reached or refused. The lease has been given back, or is
                left to expire where the session may live on.
            As `Borrower.acquire`.
        """
        lease = self._lease(ask, end_ms)
        acquired_ms = self._clock.now_ms()
        try:
            connection = self._new_session(lease, fence, ask)
        except BaseException:
            if lease is not None:
                self._borrower.give_back(lease, ask.invocation)
            raise
        connection.lease, connection.acquired_ms = lease, acquired_ms
        if lease is not None:
            connection.on_login = lambda: self.opened(lease, connection)
        try:
            connection.connect()
        except BaseException:
            self.end(connection, ask.invocation)  # what was begun of the session may live on
            raise
        return connection

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """Tell the extension which socket belongs to a lease."""
        self._notes.opened(lease, connection)

    def end(self, connection: FencedConnection, invocation: Deadline | None = None) -> None:
        """Close the session and give its lease back, unless MySQL may still be at work for it."""
        connection.close()
        if connection.lease is not None:
            self.settle(connection.lease, may_linger=connection.may_linger, invocation=invocation)

    def settle(self, lease: Lease, *, may_linger: bool, invocation: Deadline | None = None) -> None:
        """Give back the lease of a session that has ended, or leave it to expire."""
        if may_linger:
            self._borrower.leave_to_expire(lease, "MySQL may still be at work for its session")
        else:
            self._borrower.give_back(lease, invocation)

    def opener(self) -> Opener:
        """What opens the sessions; made when it is first needed.

        Raises:
            InvalidRequest: the environment says no database.
        """
        if self._opener is None:
            if self._make_opener is None:
                raise InvalidRequest("DB_HOST", "must be set in the environment to open connections")
            self._opener = self._make_opener()
        return self._opener

    def _lease(self, ask: Ask, end_ms: Callable[[], int]) -> Lease | None:
        """A lease; None where the governor cannot be reached and this worker chose to connect all the same."""
        try:
            return self._borrower.acquire(ask, end_ms)
        except GovernorUnavailable as error:
            self.go_on_ungoverned(ask, error)
            return None

    def go_on_ungoverned(self, ask: Ask, error: GovernorUnavailable) -> None:
        """Return if this worker chose to connect all the same, after saying so; else raise."""
        if self._on_unavailable != "open":
            raise error
        self._reporter.ungoverned(ask.database, str(error), now_ms=self._clock.now_ms(), holder=ask.holder)

    def _new_session(self, lease: Lease | None, fence: Fence, ask: Ask) -> FencedConnection:
        opener = self.opener()
        if lease is None:
            return opener.new_session(fence, UNGOVERNED, None, ask.invocation)
        usable_ms = usable_until_ms(lease, fence, may_freeze=ask.may_freeze)
        return opener.new_session(fence, lease.session_name, usable_ms, ask.invocation)


def usable_until_ms(lease: Lease, fence: Fence, *, may_freeze: bool) -> int:
    """When the last statement may start under this lease.

    Lambda has stopped the holder at its deadline; other code may be frozen at any moment, so it stops earlier.
    """
    return lease.expires_at_ms - fence.required_margin_ms(may_freeze=may_freeze)
