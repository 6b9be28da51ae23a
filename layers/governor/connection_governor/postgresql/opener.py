"""Open governed sessions of one PostgreSQL database, with credentials that may be rotated meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.fence import session_options
from connection_governor.postgresql.rules import POSTGRESQL
from connection_governor.postgresql.session import FencedConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.database.credentials import Attempts, Logins
    from connection_governor.database.fence import Fence
    from connection_governor.database.target import Target
    from connection_governor.postgresql.async_session import AsyncFencedConnection
    from connection_governor.postgresql.rules import Rules


class Opener:
    """Opens sessions of one target as one user.

    Args:
        target: the server.
        logins: the credentials to try, for each opening anew; the deadline bounds what is asked for them.
        clock: what `usable_until_ms` is compared with.
        rules: what the kind of server takes from a session.
    """

    def __init__(self, target: Target, logins: Logins, clock: Clock, rules: Rules = POSTGRESQL) -> None:
        self.target = target
        self.clock = clock
        self.rules = rules
        self._logins = logins

    def session_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a caller's options, see `fence.session_options`."""
        rules = self.rules
        refused = {"settings": rules.takes_settings, "prepare_threshold": rules.prepares}
        for name in options:
            if not refused.get(name, True):
                raise InvalidRequest(name, f"cannot be set on a governed connection to {rules.name}")
        return session_options(options)

    def attempts(self, deadline: Deadline | None = None) -> Attempts:
        """Return the attempts to sign in; the deadline bounds the requests for the credentials."""
        return lambda: self._logins(deadline)

    def new_session(
        self,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
        **options: Any,  # noqa: ANN401 - see `session_options`
    ) -> FencedConnection:
        """Return a session that is not open yet; it will use the newest credentials."""
        return FencedConnection(self, fence, session_name, usable_until_ms, deadline, **options)

    def new_async_session(
        self, fence: Fence, session_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
    ) -> AsyncFencedConnection:
        """Return a session for coroutines that is not open yet."""
        from connection_governor.postgresql.async_session import (  # noqa: PLC0415 - most workers have no loop
            AsyncFencedConnection,
        )

        return AsyncFencedConnection(self, fence, session_name, usable_until_ms, deadline)

    def open(
        self,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
        **options: Any,  # noqa: ANN401 - see `session_options`
    ) -> FencedConnection:
        """Open a session behind the fence. Raises as `FencedConnection.connect`, with the newest credentials."""
        session = self.new_session(fence, session_name, usable_until_ms, deadline, **options)
        try:
            session.connect()
        except BaseException:
            session.close()
            raise
        return session
