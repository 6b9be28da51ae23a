"""Open a governed MySQL session: target, credentials and fence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymysql import err
from pymysql.constants import ER

from connection_governor.database.credentials import only
from connection_governor.database.fence import Fence
from connection_governor.mysql.fence import SessionStart
from connection_governor.mysql.session import FencedConnection
from connection_governor.mysql.tls import context_for
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.database.credentials import Attempts, Login
    from connection_governor.database.target import Target

__all__ = ["FencedConnection", "is_denied", "new_session", "open_session"]


def new_session(
    target: Target,
    attempts: Attempts,
    fence: Fence,
    *,
    program_name: str = "",
    usable_until_ms: int | None = None,
    deadline: Deadline | None = None,
    clock: Clock = SYSTEM_CLOCK,
    start: SessionStart | None = None,
    **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
) -> FencedConnection:
    """Return a session that is not open yet: nothing is sent before its `connect`.

    The caller holds it from the start. So it can close it, and ask whether it may linger, even if its opening is
    interrupted.

    Args:
        target: the server.
        attempts: of credentials; see `credentials.DatabaseCredentials.attempts`.
        fence: the session's limits.
        program_name: see `Lease.session_name`.
        usable_until_ms: no statement is started later, not even the one that sets the session up; None for no limit.
        deadline: the invocation's: until shortly before it a silent server is waited for; None: no longer than usual.
        clock: what `usable_until_ms` is compared with.
        start: character set, autocommit, time zone and so on.
        options: other arguments of PyMySQL, such as `cursorclass` and `client_flag`.

    Raises:
        InvalidRequest: TLS mode or authority that cannot be used.
    """
    context = context_for(target.tls, target.tls_ca, target.host)
    return FencedConnection(
        fence=fence,
        start=start or SessionStart(),
        attempts=attempts,
        usable_until_ms=usable_until_ms,
        clock=clock,
        host=target.host,
        port=target.port,
        database=target.database,
        connect_timeout=target.connect_seconds,
        patience=target.patience(deadline, clock),
        needs_writer=target.role == "writer",
        program_name=program_name,
        ssl=context,
        ssl_disabled=context is None,
        **options,
    )


def open_session(
    target: Target,
    credentials: Login,
    fence: Fence | None = None,
    **options: Any,  # noqa: ANN401 - those of `new_session`
) -> FencedConnection:
    """Open a session behind the fence, which can be reset; one round trip less than PyMySQL's own connect.

    Args:
        target: the server.
        credentials: user and password.
        fence: the session's limits.
        options: as for `new_session`.

    Raises:
        pymysql.err.OperationalError: MySQL or the network refused (1040, 1045, 1226, 2003, ...).
        InvalidRequest: TLS mode or authority that cannot be used.
        LeaseLost: opening took until after `usable_until_ms`.
    """
    session = new_session(target, only(credentials), fence or Fence(), **options)
    session.asks_for_server = True
    session.connect()
    return session


def is_denied(error: Exception) -> bool:
    """Return whether MySQL has denied the credentials (1045)."""
    return isinstance(error, err.OperationalError) and error.args[0] == ER.ACCESS_DENIED_ERROR
