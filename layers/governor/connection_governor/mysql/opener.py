"""Open governed sessions of one database, with credentials that may be rotated meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.mysql.connect import FencedConnection, new_session

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.mysql.connect import Target
    from connection_governor.mysql.credentials import Attempts, DatabaseCredentials
    from connection_governor.mysql.fence import Fence


class Opener:
    """Opens sessions of one target with one secret.

    Args:
        target: the server.
        credentials: the environment's cache of secrets.
        secret_arn: the secret with user and password.
        clock: what `usable_until_ms` is compared with.
    """

    def __init__(self, target: Target, credentials: DatabaseCredentials, secret_arn: str, clock: Clock) -> None:
        self.target = target
        self.credentials = credentials
        self.secret_arn = secret_arn
        self.clock = clock

    def attempts(self, deadline: Deadline | None = None) -> Attempts:
        """Return the attempts to sign in; the deadline bounds the requests for the credentials."""
        return lambda: self.credentials.attempts(self.secret_arn, deadline)

    def new_session(
        self,
        fence: Fence,
        program_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
        **options: Any,  # noqa: ANN401 - see `fence.session_options`
    ) -> FencedConnection:
        """Return a session that is not open yet, see `connect.new_session`; it will use the newest credentials."""
        return new_session(
            self.target,
            self.attempts(deadline),
            fence,
            program_name=program_name,
            usable_until_ms=usable_until_ms,
            deadline=deadline,
            clock=self.clock,
            **options,
        )

    def open(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
    ) -> FencedConnection:
        """Open a session behind the fence. Raises as `FencedConnection.connect`, with the newest credentials."""
        session = self.new_session(fence, program_name, usable_until_ms, deadline)
        session.connect()
        return session
