"""Open sessions, each under a lease of its own, and end the two together.

An exception can strike between any two lines: a signal handler's, or a cancelled task's. So a `LeasedSession` exists
before there is anything to end, its lease is released only after its socket is closed, and its end can be repeated.
After a fork the child has a copy of everything: there the end closes the copied descriptor, and nothing else.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from connection_governor.client.lease_file import NO_LEASE_FILE
from connection_governor.errors import GovernorUnavailable, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.client.acquire import LeaseClient
    from connection_governor.client.lease_file import LeaseNotes
    from connection_governor.client.ports import Opener, Session, Watched
    from connection_governor.client.request import LeaseRequest
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer
    from connection_governor.metrics import Reporter

UNGOVERNED = "governor:none"


class Sessions:
    """One environment's way to its database.

    Args:
        lease_client: acquires the leases.
        make_opener: makes the opener of sessions at its first use; None: there is none.
        clock: the leases' clock.
        reporter: writes ungoverned connections to the log, as metrics.
        lease_file: tells the extension which socket belongs to which lease.
        on_unavailable: "raise", or "open": connect without a lease when the governor cannot be reached.
    """

    def __init__(
        self,
        lease_client: LeaseClient,
        make_opener: Callable[[], Opener] | None,
        clock: Clock,
        reporter: Reporter,
        lease_file: LeaseNotes,
        on_unavailable: str,
    ) -> None:
        self._lease_client = lease_client
        self._make_opener = make_opener
        self._opener: Opener | None = None
        self._clock = clock
        self._reporter = reporter
        self._lease_file = lease_file
        self._on_unavailable = on_unavailable
        self._lingering: dict[str, tuple[Lease, DatabaseServer]] = {}

    def leased(self, options: Mapping[str, Any]) -> LeasedSession:
        """Return a session that has yet to be opened, with these options; see `checked`."""
        return LeasedSession(self, options)

    def checked(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a caller's options of a session, as its opener takes them.

        Raises:
            InvalidRequest: an option that a governed session does not have; `field` is its name.
        """
        return self.opener().session_options(options) if options else options

    def release_or_leave(
        self,
        lease: Lease,
        *,
        may_linger: bool,
        invocation: Deadline | None = None,
        server: DatabaseServer | None = None,
    ) -> None:
        """Release the lease of a session that has ended, or leave it to expire.

        Where it is known which server the session was on, a later session may prove that it has ended.
        """
        if may_linger:
            if server is not None:
                self._lingering[lease.lease_id] = (lease, server)
            self._lease_file.lingers(lease)
            self._lease_client.leave_to_expire(lease, "the database may still be at work for its session")
        else:
            self._lease_file.closed(lease)
            self._lease_client.release_at_end(lease, invocation)

    @property
    def have_lingering(self) -> bool:
        """Whether leases were left to expire that a new session might prove free."""
        now_ms = self.now_ms()
        for lease_id, (lease, _) in list(self._lingering.items()):
            if lease.expires_at_ms < now_ms:
                self._lingering.pop(lease_id, None)
        return bool(self._lingering)

    def release_ended(self, server: DatabaseServer, invocation: Deadline | None) -> None:
        """Release the leases whose sessions a new one, on this server, proves to have ended."""
        for lease_id, (lease, earlier) in list(self._lingering.items()):
            if server.proves_ended(earlier) and self._lingering.pop(lease_id, None) is not None:
                self._lease_file.closed(lease)
                self._lease_client.release_at_end(lease, invocation)

    def note_ended(self, lease: Lease, count: int) -> None:
        """Log that so many sessions outlived the leases that this one took over, and were ended."""
        if count:
            self._reporter.note("overdue sessions ended", lease_id=lease.lease_id, database=lease.database, count=count)

    def watch(self, connection: Watched, lease: Lease) -> None:
        """Note the session under a lease for the extension: its socket, and whether it is working."""
        connection.on_login = partial(self._lease_file.opened, lease)
        if self._lease_file is not NO_LEASE_FILE:  # else each command would be reported for nothing
            connection.on_work = partial(self._lease_file.working, lease.lease_id)

    def opener(self) -> Opener:
        """Return the opener of sessions; it is made at its first use.

        Raises:
            InvalidRequest: `DB_HOST` is not set.
        """
        if self._opener is None:
            if self._make_opener is None:
                raise InvalidRequest("DB_HOST", "must be set in the environment to open connections")
            self._opener = self._make_opener()
        return self._opener

    def lease_or_none(self, request: LeaseRequest, end_ms: Callable[[], int]) -> Lease | None:
        """Return a lease; None if the governor cannot be reached and this worker chose to connect all the same."""
        try:
            return self._lease_client.acquire(request, end_ms)
        except GovernorUnavailable as error:
            self.go_on_ungoverned(request, error)
            return None

    def go_on_ungoverned(self, request: LeaseRequest, error: GovernorUnavailable) -> None:
        """Report and return if this worker chose to connect all the same; else raise."""
        if self._on_unavailable != "open":
            raise error
        self._reporter.ungoverned(request.database, str(error), now_ms=self._clock.now_ms(), holder=request.holder)

    def now_ms(self) -> int:
        """Return the time, as leases count it."""
        return self._clock.now_ms()


class LeasedSession:
    """A lease and the session under it, from before either exists until both have ended.

    Args:
        sessions: acquires, opens and releases.
        options: as `Sessions.checked` returns them.

    Attributes:
        options: as given.
        lease: None before it is granted, if there is none, and after the end.
        connection: None before it is made.
        invocation: the deadline of the requests for it; None: no invocation bounds them.
    """

    def __init__(self, sessions: Sessions, options: Mapping[str, Any]) -> None:
        self.options = options
        self.lease: Lease | None = None
        self.connection: Session | None = None
        self.invocation: Deadline | None = None
        self._sessions = sessions
        self._process = os.getpid()

    @property
    def is_own(self) -> bool:
        """Whether this process opened it; else it is a copy of its parent's."""
        return self._process == os.getpid()

    def open(self, request: LeaseRequest, fence: Fence, end_ms: Callable[[], int], *, is_kept: bool = False) -> Session:
        """Acquire a lease until `end_ms()`, and open a session under it. Whatever is raised, `end` must follow.

        A session that `is_kept` learns which server it is on, for the case that this server falls silent meanwhile.

        Raises:
            The driver's error: the database could not be reached or refused.
            As `LeaseClient.acquire`.
        """
        sessions, self.invocation = self._sessions, request.invocation
        opener = sessions.opener()  # before the lease: to load a driver takes a cold environment up to a second
        self.lease = sessions.lease_or_none(request, end_ms)
        acquired_ms = sessions.now_ms()
        connection = self.connection = self._made(opener, request, fence)
        connection.lease, connection.acquired_ms = self.lease, acquired_ms
        connection.asks_for_server |= is_kept or sessions.have_lingering
        connection.connect()
        if connection.server is not None:
            sessions.release_ended(connection.server, request.invocation)
        if self.lease is not None and self.lease.taken_over:
            self._end_overdue(connection, self.lease)
        return connection

    def end(self) -> None:
        """Close the session and release its lease, unless the database may still be working for it. Can be repeated."""
        try:
            self._end()
        except BaseException:
            self._end()
            raise

    def release_or_leave(self) -> None:
        """Release the lease of a session that is closed, or leave it to expire."""
        if self.lease is not None and self.is_own:
            lingers, server = False, None
            if self.connection is not None:
                lingers, server = self.connection.may_linger, self.connection.server
            self._sessions.release_or_leave(self.lease, may_linger=lingers, invocation=self.invocation, server=server)
        self.lease = None

    def _end(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.release_or_leave()

    def _end_overdue(self, connection: Session, lease: Lease) -> None:
        """End what is left of the sessions whose leases were taken over: one may hold the row that the body needs.

        A server that refuses is no obstacle: such sessions end by their own limits.
        """
        try:
            ended = connection.end_sessions(lease.taken_over)
        except connection.driver_error:
            if not connection.open:
                raise
        else:
            self._sessions.note_ended(lease, ended)

    def _made(self, opener: Opener, request: LeaseRequest, fence: Fence) -> Session:
        if self.lease is None:
            return opener.new_session(fence, UNGOVERNED, None, request.invocation, **self.options)
        until_ms = usable_until_ms(self.lease, fence, may_freeze=request.may_freeze)
        connection = opener.new_session(fence, self.lease.session_name, until_ms, request.invocation, **self.options)
        self._sessions.watch(connection, self.lease)
        return connection


def usable_until_ms(lease: Lease, fence: Fence, *, may_freeze: bool) -> int:
    """Return when the last statement may start under this lease.

    Lambda has stopped the holder at its deadline; other code may be frozen at any moment, so it stops earlier.
    """
    return lease.expires_at_ms - fence.required_margin_ms(may_freeze=may_freeze)
