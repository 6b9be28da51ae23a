"""A governed session, blocking or not: bound to a fence and a lease, and refusing statements that come too late."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from connection_governor.core.deadline import Deadline
from connection_governor.errors import LeaseLost
from connection_governor.postgresql import login, wire
from connection_governor.postgresql.fence import start_options
from connection_governor.postgresql.state import Phase, SessionState

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator, Mapping

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

    from connection_governor.core.lease import Lease
    from connection_governor.database.credentials import Login
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer
    from connection_governor.postgresql.opener import Opener

RESET_SECONDS = 1.0  # the body's work is done, and its invocation may be at its end: do not wait for a stuck server
PING_SECONDS = 1.0
_IDLE, _ACTIVE, _UNKNOWN = TransactionStatus.IDLE, TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN


class GovernedSession:
    """The part that both sessions share. See `client.ports.Session` for the attributes without a description.

    Attributes:
        pgconn: libpq's connection, once there is one.
    """

    driver_error: type[Exception] = psycopg.Error
    pgconn: PGconn
    fence: Fence
    usable_until_ms: int | None
    lease: Lease | None = None
    acquired_ms = 0
    asks_for_server = False
    server: DatabaseServer | None = None
    on_login: Callable[[Any], object] | None = None
    on_work: Callable[..., None] | None = None
    _wire: socket.socket | None = None

    def _govern(
        self,
        opener: Opener,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None,
        options: Mapping[str, Any],
    ) -> None:
        """Bind the session before anything is sent."""
        self.fence = fence
        self.usable_until_ms = usable_until_ms
        self._clock = opener.clock
        self._target = opener.target
        self._options = options
        self._answer_s = fence.read_seconds
        self._patience = opener.target.patience(deadline, opener.clock)
        self._rules = opener.rules
        start = start_options(fence, options.get("settings", {})) if self._rules.takes_settings else ""
        self._parameters = login.parameters(opener.target, session_name, start)
        self._process = os.getpid()
        self._state = SessionState()
        self._step = Deadline.after(0, opener.clock)
        self._reported_work = True  # the login is work
        self._is_ending = False

    def __repr__(self) -> str:
        """Show it as psycopg does; before its opening there is nothing to show."""
        return super().__repr__() if "pgconn" in self.__dict__ else f"<{type(self).__name__} [not open yet]>"

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        pgconn = self.__dict__.get("pgconn")
        return pgconn is not None and pgconn.status == ConnStatus.OK

    @property
    def may_linger(self) -> bool:
        """After the end, also that of a failed opening: whether the lease must be left to expire. See `state`."""
        return self._state.may_linger

    @property
    def let_go(self) -> bool:
        """After the end: whether the server is known to have ended the session."""
        return self._state.has_ended

    @property
    def local_port(self) -> int:
        """This end of the connection, as a TCP port; 0 if there is none."""
        return self._wire.getsockname()[1] if self._wire is not None else 0

    @property
    def _is_copy(self) -> bool:
        """Whether this is a forked child's copy: the session is its parent's, and the child must send it nothing."""
        return self._process != os.getpid()

    @property
    def _transaction(self) -> TransactionStatus:
        pgconn = self.__dict__.get("pgconn")
        return _UNKNOWN if pgconn is None else TransactionStatus(pgconn.transaction_status)

    # What the steps of the opening report: see `login.Steps`.

    def wire_made(self, wire: socket.socket) -> None:
        """See `login.Steps`."""
        self._wire = wire

    def login_comes(self) -> None:
        """See `login.Steps`."""
        if self._state.phase is Phase.CONNECTING:
            self._state.login_sent()
            if self.on_login is not None:
                self.on_login(self)

    def login_refused(self) -> None:
        """See `login.Steps`."""
        self._state.refused()

    def step_begins(self) -> None:
        """See `login.Steps`."""
        left_s = self._patience.left_s
        self._step = Deadline.after(round((left_s or self._target.connect_seconds) * 1_000), self._clock)

    def step_has_time(self) -> bool:
        """See `login.Steps`."""
        return not self._step.has_passed()

    def _signing_in(self, address: str, credentials: Login) -> Generator[tuple[int, Any], int, PGconn]:
        """Return the steps of one attempt."""
        self._drop()
        self._state = SessionState()
        text = login.conninfo(self._parameters, address, credentials)
        return login.signing_in(text, self, with_tls=self._target.tls != "off")

    def _refuse_if_too_old(self) -> None:
        """Raise if the server may end the session, for its age, before another body has ended. By either clock."""
        longest_ms = self._rules.longest_kept_ms
        age_ms = max(self._clock.now_ms() - self._opened_ms, -self._opened.left_ms())
        if longest_ms is not None and age_ms >= longest_ms:
            raise psycopg.OperationalError(f"{self._rules.name} ends sessions of this age: open another one")

    def _may_try_again(self) -> bool:
        """Return whether a server that has heard no login was silent, see `patience`."""
        return self._state.phase is Phase.CONNECTING and self._patience.has_another

    def _not_found(self) -> psycopg.OperationalError:
        return psycopg.OperationalError(f"no address was found for the host {self._target.host!r}")

    def _accepted(self) -> None:
        """Note that the session is open, unless that took too long."""
        self._state.accepted()
        self._opened_ms, self._opened = self._clock.now_ms(), Deadline.after(0, self._clock)
        self._refuse_if_late()

    # Each wait of the driver goes through these.

    def _guarded(self, steps: PQGen[Any], silence_s: float | None = None) -> PQGen[Any]:
        """Carry the steps out if the lease still covers them, and give up when the server is silent for too long."""
        self._refuse_if_late()
        if not self._reported_work:
            self._reported_work = True
            if self.on_work is not None:
                self.on_work(working=True)
        return self._bounded(steps, silence_s)

    def _bounded(self, steps: PQGen[Any], silence_s: float | None) -> PQGen[Any]:
        try:
            wanted = next(steps)
            while True:
                until = Deadline.after(round((silence_s or self._patience_s()) * 1_000), self._clock)
                while not (ready := (yield wanted)):
                    if until.has_passed():
                        self._drop()
                        raise psycopg.OperationalError("PostgreSQL did not answer in time")
                wanted = steps.send(ready)
        except StopIteration as done:
            return done.value

    def _rested(self) -> None:
        """Report that the session has no work left, where that is so."""
        if self._reported_work and self.pgconn.transaction_status == _IDLE:
            self._reported_work = False  # first: a call that is interrupted may have reported nothing
            if self.on_work is not None:
                self.on_work(working=False)

    def _refuse_if_late(self) -> None:
        if self._is_copy:
            raise psycopg.InterfaceError("another process opened this connection: open one here")
        if self._is_ending or self.usable_until_ms is None or self._clock.now_ms() <= self.usable_until_ms:
            return
        if self._transaction != _ACTIVE:  # else a statement that began in time is read to its end
            raise LeaseLost(
                "too late to start a statement: its lease could expire first; pass context=, or a longer lease_ms="
            )

    def _refuse_if_not_ready(self) -> None:
        """Raise if the session cannot be used for another command."""
        if self._is_copy or not self.is_open:
            raise psycopg.InterfaceError("this session was closed, or is another process's")
        pipeline = PipelineStatus(self.pgconn.pipeline_status)
        if not self._state.is_ready(self._transaction, pipeline):
            raise psycopg.InterfaceError("a command was interrupted or is still at work: close the session")

    def _patience_s(self) -> float:
        """Return how long to wait for an answer: never past the end of the last statement's time."""
        if self.usable_until_ms is None:
            return self._answer_s
        left_s = (self.usable_until_ms - self._clock.now_ms()) / 1_000
        return max(min(self._answer_s, self._answer_s + left_s), 0)

    # The end.

    def _say_goodbye(self) -> socket.socket | None:
        """Have libpq say goodbye and close its descriptor; return the other one, where the server's end will come."""
        pgconn = self.__dict__.get("pgconn")
        if self._is_copy:
            self._drop_copy(pgconn)
            return None
        if self._wire is not None:
            self._state.leaving(self._transaction)
        if pgconn is not None:
            pgconn.finish()
        return self._wire

    @property
    def _has_session(self) -> bool:
        """Whether the server may have a session, so that its end is worth a wait."""
        return self._state.phase is not Phase.CONNECTING

    def _forget_wire(self, *, has_ended: bool) -> None:
        """Close the other descriptor, and note whether the server's end has come."""
        if has_ended:
            self._state.server_closed()
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _drop(self) -> None:
        """Leave without a wait."""
        if self._say_goodbye() is not None:
            self._forget_wire(has_ended=False)

    def _drop_copy(self, pgconn: PGconn | None) -> None:
        if pgconn is not None and pgconn.status == ConnStatus.OK:
            wire.detach_copy(pgconn.socket)
            pgconn.finish()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
