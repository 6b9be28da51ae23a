"""A governed session, of either driver: bound to a fence and a lease, and refusing statements that come too late."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.constants import CR

from connection_governor.errors import LeaseLost
from connection_governor.mysql.plugins import is_answered, refused_plugin
from connection_governor.mysql.state import SessionState

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Lease
    from connection_governor.database.credentials import Login
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer


class OutOfStep(err.InterfaceError):
    """The next answer might be that of an earlier command: the session can only be closed."""


def out_of_step() -> OutOfStep:
    """Return the error of a session that can only be closed."""
    return OutOfStep(
        CR.CR_COMMANDS_OUT_OF_SYNC, "an earlier command was interrupted or is still at work: close the session"
    )


def explain(error: err.MySQLError) -> None:
    """Add to the error what to do about it, where the server's message does not say so."""
    from connection_governor.mysql.refusals import add_advice  # noqa: PLC0415 - only errors need it

    add_advice(error)


def plugin_needs_tls() -> err.OperationalError:
    """Return the error of a sign-in for which the driver raises RuntimeError, since it cannot encrypt the password."""
    return err.OperationalError(
        CR.CR_AUTH_PLUGIN_ERR,
        "without TLS, caching_sha2_password needs the package `cryptography`: set DB_TLS to verify or require, bring "
        "that package, or make the account with mysql_native_password (not in MySQL 9)",
    )


class GovernedSession:
    """The part that the sessions of both drivers share.

    Attributes:
        driver_error: the base of the drivers' errors.
        fence: the session's limits.
        usable_until_ms: statements are refused after this moment; the lease's owner moves it when the lease is renewed.
        lease: the lease that it was opened under; None without one.
        acquired_ms: when that lease was granted, milliseconds since 1970 UTC.
        asks_for_server: set before the opening, so that it learns which server it is on and which roles are active, in
            the same round trip. A session that did not ask cannot be reset.
        server: which one, where that was asked for and answered.
        on_work: set before the opening; see `state.SessionState`.
        on_login: called with the session before each login is sent. From here on the server may have one; `local_port`
            is known.
    """

    driver_error: type[Exception] = err.MySQLError
    fence: Fence
    usable_until_ms: int | None
    lease: Lease | None = None
    acquired_ms = 0
    asks_for_server = False
    server: DatabaseServer | None = None
    on_login: Callable[[Any], object] | None = None
    on_work: Callable[..., None] | None = None
    _credentials: Login
    _state: SessionState
    _now_ms: Callable[[], int]
    _opened = False
    _process = 0
    _answer_seconds = 0.0

    def _govern(self, fence: Fence, usable_until_ms: int | None, clock: Clock) -> None:
        """Bind the session before anything is sent."""
        self.fence = fence
        self._answer_seconds = fence.read_seconds
        self.usable_until_ms = usable_until_ms
        self._now_ms = clock.now_ms
        self._process = os.getpid()
        self._begin()

    def _begin(self) -> None:
        """Forget the last attempt to sign in."""
        self._state = SessionState(self.on_work)

    @property
    def _is_copy(self) -> bool:
        """Whether this is a forked child's copy: the session is its parent's, and the child must send it nothing."""
        return self._process != os.getpid()

    @property
    def let_go(self) -> bool:
        """After the end: whether the server is known to have ended the session."""
        return self._state.has_ended

    @property
    def may_linger(self) -> bool:
        """After the end, also that of a failed opening: whether the lease must be left to expire. See `state`."""
        return self._state.may_linger

    def _refuse_if_late(self) -> None:
        if self._process != os.getpid():  # `_is_copy`
            raise err.InterfaceError(0, "another process opened this connection: open one here")
        if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:
            raise LeaseLost(
                "too late to start a statement: its lease could expire first; pass context=, or a longer lease_ms="
            )

    def _refuse_if_out_of_step(self) -> None:
        if not self._state.is_ready:
            raise out_of_step()

    def _refuse_plugin(self, name: bytes, *, is_secure: bool) -> None:
        """Raise if the credentials must not be sent in the way that the server asks for, see `plugins`."""
        if not is_answered(name, self._credentials, is_secure=is_secure):
            self._state.login_given_up()
            raise refused_plugin(name)

    def _login_sent(self) -> None:
        self._state.login_sent()
        if self.on_login is not None:
            self.on_login(self)

    def _patience_s(self) -> float:
        """Return how long to wait for an answer: never past the end of the last statement's time."""
        patience_s = self._answer_seconds
        if self.usable_until_ms is None:
            return patience_s
        return min(patience_s, patience_s + (self.usable_until_ms - self._now_ms()) / 1_000)
