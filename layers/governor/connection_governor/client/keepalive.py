"""Keeps a connection and its lease between invocations: no request to DynamoDB, and none to open, while all is calm.

At the end of each body the session is reset, at the start of the next it is asked whether it is alive. With

    K   how long a kept session may be idle, `keep_seconds`; the session's `wait_timeout` W is K (never less than
        the fence's own), so MySQL itself ends it that long after its last command, the reset
    E   the bound on one statement, its waits included

a body begins only under a lease that is confirmed until `deadline + E + W` or later. Lambda stops the body at its
`deadline`, so the last command is begun by then, is over by `deadline + E`, and MySQL has closed the session by
`deadline + E + W`: always before the lease's end, the earliest moment at which anyone may reclaim it. Without a context
the body may be frozen at any moment, and the guard of every statement is `2W + E` before the lease's end instead.

A lease is taken for longer than that, by `CALM_MS`, and renewed only when it no longer covers the next body: so often,
at the most, does a busy environment ask DynamoDB. The answer is also how it hears of pressure. It then gives up what it
kept at the end of the body, and works per invocation for as long as the pressure is remembered. An environment that is
never invoked again hears nothing: what it keeps comes back when its lease ends, `E + W + CALM_MS` after the deadline of
its last invocation at the latest.

NOT kept: the session of a body that met an error of MySQL's or a lost lease, that was broken, or that ended too late;
nor one that is not reset within `fenced.RESET_SECONDS`, or that has chosen a schema where it was opened without.
Nothing is done when the interpreter exits: the socket closes, and the extension or the lease's end frees the slot.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from connection_governor.client.sessions import usable_until_ms
from connection_governor.core.values import replace
from connection_governor.errors import GovernorUnavailable, LeaseLost, NoConnectionsLeft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.client.acquire import Borrower
    from connection_governor.client.request import Ask
    from connection_governor.client.sessions import Sessions
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.fence import Fence

LONGEST_KEEP_S = 300
FIRST_CALM_MS = 5_000  # a new holder looks again soon: it may have come at the beginning of a rush
CALM_MS = 40_000


class _Place:
    """Where one database's kept session waits; `taken` while a body uses it."""

    __slots__ = ("connection", "taken")

    def __init__(self) -> None:
        self.taken = threading.Lock()
        self.connection: FencedConnection | None = None


class Keeper:
    """Keeps at most one session for each database.

    Args:
        borrower: renews the leases, and knows of pressure.
        sessions: opens and ends.
        clock: the leases' clock.
    """

    def __init__(self, borrower: Borrower, sessions: Sessions, clock: Clock) -> None:
        self._borrower = borrower
        self._sessions = sessions
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._process = os.getpid()

    def reserve(self, database: str) -> bool:
        """Whether this body may use the kept session, or open one to keep; if so, `connection` must follow.

        Not while another body uses it, nor under pressure where nothing is kept.
        """
        place = self._place(database)
        if not place.taken.acquire(blocking=False):
            return False
        if place.connection is None and self._borrower.is_pressed(database):
            place.taken.release()
            return False
        return True

    @contextmanager
    def connection(self, ask: Ask, fence: Fence) -> Iterator[FencedConnection]:
        """The kept session, or a new one, for one body; afterwards it is reset and kept, or given up.

        Args:
            ask: what was asked for.
            fence: with the kept session's idle limit, see `kept_fence`.

        Raises:
            As `Sessions.begin`.
        """
        place = self._place(ask.database)
        try:
            connection = self._revived(place, ask, fence) or self._begun(ask, fence)
            try:
                yield connection
            except BaseException as error:
                self._after(place, connection, ask, error)
                raise
            self._after(place, connection, ask, None)
        finally:
            place.taken.release()

    def give_up(self) -> None:
        """Close what is kept and give it back, but for what a body is using."""
        for place in list(self._places.values()):
            if place.taken.acquire(blocking=False):
                try:
                    self._discard(place)
                finally:
                    place.taken.release()

    def _place(self, database: str) -> _Place:
        if self._process != os.getpid():  # a forked child: the sessions are its parent's
            self._places, self._process = {}, os.getpid()
        return self._places.setdefault(database, _Place())

    def _revived(self, place: _Place, ask: Ask, fence: Fence) -> FencedConnection | None:
        """The kept session, under a lease that covers this body; None where there is none, or none that can be used."""
        connection = place.connection
        if connection is None:
            return None
        try:
            if connection.fence == fence and self._covered(connection, ask) and connection.is_alive():
                place.connection = None
                return connection
        except LeaseLost:  # past its end after a freeze, or taken over since
            pass
        self._discard(place, ask.invocation)
        return None

    def _covered(self, connection: FencedConnection, ask: Ask) -> bool:
        """Renew the lease if it does not cover this body; whether it now does. Before the connection is touched."""
        fence, lease = connection.fence, connection.lease
        if lease is None:
            return False
        needed_ms = _needed_ms(ask, fence, self._clock)
        if lease.expires_at_ms < needed_ms:
            try:
                lease = self._borrower.renew(lease, needed_ms + min(CALM_MS, fence.idle_ms), ask.invocation)
            except NoConnectionsLeft:  # a lowered budget is overdrawn: this one goes back first
                return False
            except GovernorUnavailable as error:
                self._sessions.go_on_ungoverned(ask, error)
                connection.usable_until_ms = None
                return True
            connection.lease = lease
        connection.usable_until_ms = usable_until_ms(lease, fence, may_freeze=ask.may_freeze)
        return True

    def _begun(self, ask: Ask, fence: Fence) -> FencedConnection:
        calm_ms = min(FIRST_CALM_MS, fence.idle_ms)
        return self._sessions.begin(ask, fence, lambda: _needed_ms(ask, fence, self._clock) + calm_ms)

    def _after(self, place: _Place, connection: FencedConnection, ask: Ask, error: BaseException | None) -> None:
        if self._may_keep(connection, ask.database, error):
            place.connection = connection
        else:
            self._sessions.end(connection, ask.invocation)

    def _may_keep(self, connection: FencedConnection, database: str, error: BaseException | None) -> bool:
        """Reset the session, if it should and can be kept; whether it was."""
        from pymysql import err  # noqa: PLC0415 - loaded by now, and not needed by workers without a connection

        if isinstance(error, err.MySQLError | LeaseLost) or (error and not isinstance(error, Exception)):
            return False
        too_late = connection.usable_until_ms is None or self._clock.now_ms() > connection.usable_until_ms
        if connection.lease is None or not connection.open or too_late or self._borrower.is_pressed(database):
            return False
        try:
            connection.reset()
        except err.Error:
            return False
        return True

    def _discard(self, place: _Place, invocation: Deadline | None = None) -> None:
        connection, place.connection = place.connection, None
        if connection is not None:
            self._sessions.end(connection, invocation)


def kept_fence(fence: Fence, keep_seconds: int) -> Fence:
    """The fence of a session that may be idle for so long between two bodies."""
    return replace(fence, idle_seconds=max(keep_seconds, fence.idle_seconds))


def _needed_ms(ask: Ask, fence: Fence, clock: Clock) -> int:
    """The earliest end of a lease under which a body may begin."""
    return ask.last_use_ms(clock) + fence.required_margin_ms(may_freeze=ask.may_freeze)
