"""Opens a governed MySQL session: where to, as whom, and behind which fence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core.values import dataclass
from connection_governor.mysql.fence import Fence, SessionStart
from connection_governor.mysql.session import FencedConnection
from connection_governor.mysql.tls import context_for
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.mysql.credentials import Credentials

__all__ = ["FencedConnection", "Target", "open_session"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a database listens.

    Attributes:
        host: name or address; with `tls="verify"` the certificate must be for it.
        port: TCP port.
        database: the schema to use, or None.
        tls: `verify`, `require` or `off`, see `tls.MODES`.
        tls_ca: PEM file of the authorities to trust; None for those of Amazon RDS.
        connect_seconds: limit of each step of opening (connect, TLS, sign in, set up).
    """

    host: str
    port: int = 3306
    database: str | None = None
    tls: str = "verify"
    tls_ca: str | None = None
    connect_seconds: float = 3.0


def open_session(
    target: Target,
    credentials: Credentials,
    fence: Fence | None = None,
    *,
    program_name: str = "",
    usable_until_ms: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    start: SessionStart | None = None,
    **options: Any,  # noqa: ANN401 - PyMySQL's own arguments, of any type
) -> FencedConnection:
    """Opens a session behind the fence; one round trip less than PyMySQL's own connect.

    Args:
        target: where to.
        credentials: who.
        fence: the session's limits.
        program_name: see `Lease.session_name`.
        usable_until_ms: no statement is started later, not even the one that sets the session up; None for no limit.
        clock: what `usable_until_ms` is compared with.
        start: character set, autocommit, time zone and so on.
        options: other arguments of PyMySQL, such as `cursorclass` and `client_flag`.

    Raises:
        pymysql.err.OperationalError: whatever MySQL or the network says (1040, 1045, 1226, 2003, ...).
        InvalidRequest: TLS mode or authority that cannot be used.
        LeaseLost: opening took until after `usable_until_ms`.
    """
    context = context_for(target.tls, target.tls_ca, target.host)
    return FencedConnection(
        fence=fence or Fence(),
        start=start or SessionStart(),
        usable_until_ms=usable_until_ms,
        clock=clock,
        host=target.host,
        port=target.port,
        database=target.database,
        connect_timeout=target.connect_seconds,
        user=credentials.username,
        password=credentials.password.encode(),  # a text would be sent as latin-1
        program_name=program_name,
        ssl=context,
        ssl_disabled=context is None,
        **options,
    )
