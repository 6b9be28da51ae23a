"""A psycopg connection behind the fence: guarded by its lease, reset in one round trip, closed in order.

Behind a proxy (RDS Proxy, PgBouncer) the end of the stream is the proxy's, and says nothing about PostgreSQL. Most
proxies also refuse the start-up packet's `options`, and with them the fence.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import rows, waiting
from psycopg.pq import TransactionStatus

from connection_governor.database.credentials import sign_in
from connection_governor.errors import LeaseLost
from connection_governor.postgresql import login
from connection_governor.postgresql.commands import carried_out
from connection_governor.postgresql.governed import PING_SECONDS, RESET_SECONDS, GovernedSession
from connection_governor.postgresql.wire import peer_closes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

    from connection_governor.core.deadline import Deadline
    from connection_governor.database.credentials import Login
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer
    from connection_governor.postgresql.opener import Opener


class FencedConnection(GovernedSession, psycopg.Connection[Any]):
    """A psycopg connection whose session PostgreSQL itself ends when its holder vanishes.

    Args:
        opener: target and credentials.
        fence: the session's limits.
        session_name: see `Lease.session_name`.
        usable_until_ms: no statement is started later.
        deadline: the invocation's: until shortly before it a silent server is waited for; None: no longer than usual.
        options: as `fence.session_options` returns them.

    Attributes:
        on_close: called once, after `close` has ended the session.
    """

    on_close: Callable[[], None] | None = None

    def __init__(
        self,
        opener: Opener,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
        **options: Any,  # noqa: ANN401 - psycopg's own
    ) -> None:
        """Make a session that is not open yet: nothing is sent before `connect`."""
        self._govern(opener, fence, session_name, usable_until_ms, deadline, options)
        self._attempts = opener.attempts(deadline)

    @property
    def open(self) -> bool:
        """Whether it is open."""
        return self.is_open

    def connect(self) -> None:  # type: ignore[override] # a session lives and dies with one lease: it is made by no class
        """Connect once.

        Raises:
            psycopg.InterfaceError: it was connected before.
            psycopg.OperationalError: PostgreSQL or the network refused.
            LeaseLost: it took until after `usable_until_ms`.
        """
        if "pgconn" in self.__dict__:
            raise psycopg.InterfaceError("a governed connection is never reopened: take a new lease")
        sign_in(self._attempts(), self._sign_in_patiently)

    def _sign_in_patiently(self, credentials: Login) -> None:
        while True:
            self._patience.begin()
            try:
                self._sign_in(credentials)
            except psycopg.OperationalError:
                if not self._may_try_again():
                    raise
            else:
                return

    def _sign_in(self, credentials: Login) -> None:
        """Try the addresses of the host in turn, until one answers."""
        failed = self._not_found()
        for address in self._addresses():
            try:
                self._sign_in_at(address, credentials)
            except psycopg.OperationalError as error:
                if error.sqlstate is not None:  # the server's own word
                    raise
                failed = error
            else:
                return
        raise failed

    def _sign_in_at(self, address: str, credentials: Login) -> None:
        pgconn = waiting.wait_conn(self._signing_in(address, credentials), interval=login.STEPS_INTERVAL_S)
        psycopg.Connection.__init__(self, pgconn)
        self._accepted()
        if self.asks_for_server and self._rules.says_more:
            self.server = self._read_server()
        self._start()

    def _read_server(self) -> DatabaseServer | None:
        """Return which server this is; None where it does not say."""
        from connection_governor.postgresql.server import QUERY, server_of  # noqa: PLC0415 - only for kept sessions

        try:
            (result,) = self._exchange([QUERY], self._target.connect_seconds)
        except psycopg.Error:
            if not self.is_open:
                raise
            return None
        return server_of(result)

    def _addresses(self) -> list[str]:
        host, port = self._target.host, self._target.port
        try:
            return login.addresses(socket.getaddrinfo(host, port, proto=socket.IPPROTO_TCP))
        except OSError as error:
            raise self._not_found() from error

    def _start(self) -> None:
        """Give psycopg's object the caller's options."""
        options = self._options
        self._autocommit = bool(options.get("autocommit", False))
        self.prepare_threshold = options.get("prepare_threshold", 5) if self._rules.prepares else None
        self.row_factory = options.get("row_factory") or rows.tuple_row
        self.cursor_factory = options.get("cursor_factory") or psycopg.Cursor
        if options.get("context") is not None:
            self._adapters = psycopg.adapt.AdaptersMap(options["context"].adapters)
        self._rested()

    def wait(self, gen: PQGen[Any], *args: Any, **more: Any) -> Any:  # noqa: ANN401 - psycopg's own
        """Wait as psycopg does, for whatever it sends and reads: guarded by the lease, and bounded in time."""
        answer = super().wait(self._guarded(gen), *args, **more)
        self._rested()
        return answer

    def reset(self) -> None:
        """Roll back, and forget all session state but the fence: one round trip.

        `DISCARD ALL` returns to what the start-up packet has set. Python's side starts anew as psycopg's constructor
        makes it. It is allowed after `usable_until_ms`, to end the use.

        Raises:
            psycopg.Error: the session is unusable, and closed; also if the answers take `RESET_SECONDS`, or if it is
                too old to be kept.
        """
        try:
            self._refuse_if_not_ready()
            self._refuse_if_too_old()
            rollback = [] if self._transaction == TransactionStatus.IDLE else [b"ROLLBACK"]
            self._exchange([*rollback, self._rules.forget], RESET_SECONDS)
            psycopg.Connection.__init__(self, self.pgconn)
            self._start()
        except BaseException:
            self.close()
            raise

    def is_alive(self) -> bool:
        """Return whether the server answers within `PING_SECONDS`; if not, close the connection.

        The question starts the idle time anew, so it is refused like a statement.

        Raises:
            LeaseLost: it is too late to use this session.
        """
        self._refuse_if_late()
        try:
            self._refuse_if_not_ready()
            self._exchange([b""], PING_SECONDS)
        except psycopg.Error:
            self.close()
            return False
        return True

    def end_sessions(self, names: Collection[str]) -> int:
        """End this role's other sessions with these names, such as that of a lease that was taken over; count them.

        It needs no right. A session that has not ended within `observe.END_MS` counts as well.

        Raises:
            psycopg.Error: the server refused.
            LeaseLost: it is too late to use this session.
        """
        from connection_governor.postgresql.observe import END_NAMED, named  # noqa: PLC0415 - few sessions end others

        if not self._rules.says_more:
            return 0
        self._refuse_if_late()
        self._refuse_if_not_ready()
        (result,) = self._exchange([END_NAMED], self._patience_s(), named(names))
        return result.ntuples

    def _exchange(self, commands: list[bytes], seconds: float, values: list[bytes] | None = None) -> list[PGresult]:
        with self.lock:
            steps = carried_out(self.pgconn, commands, values)
            results: list[PGresult] = super().wait(self._bounded(steps, seconds))
            return results

    def rollback(self) -> None:
        """Roll back as psycopg does; if no statement can be sent, close the session, which also rolls back.

        Pools and SQLAlchemy roll back before they close, and would leave the session open if this raised `LeaseLost`.
        """
        try:
            super().rollback()
        except LeaseLost:
            self.close()

    def close(self) -> None:
        """Say goodbye, and wait up to `wire.CLOSE_SECONDS` for the server to have ended the session: see `let_go`."""
        end = self._say_goodbye()
        if end is not None:
            self._forget_wire(has_ended=self._has_session and peer_closes(end))
        self._closed = True
        if self.on_close is not None:
            self.on_close()
            self.on_close = None
