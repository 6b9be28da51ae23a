"""Opens governed sessions of one database, with credentials that may be rotated under us."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.mysql.connect import FencedConnection, open_session

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.mysql.connect import Target
    from connection_governor.mysql.credentials import Credentials, DatabaseCredentials
    from connection_governor.mysql.fence import Fence


class Opener:
    """Knows where the database listens and which secret opens it.

    Args:
        target: where.
        credentials: the environment's cache of secrets.
        secret_arn: whose user and password.
        clock: what `usable_until_ms` is compared with.
    """

    def __init__(self, target: Target, credentials: DatabaseCredentials, secret_arn: str, clock: Clock) -> None:
        self.target = target
        self.credentials = credentials
        self.secret_arn = secret_arn
        self.clock = clock

    def open(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
    ) -> FencedConnection:
        """Open a session behind the fence. Raises as `open_session`, with the newest credentials.

        The deadline bounds the requests for the credentials.
        """

        def connect(credentials: Credentials) -> FencedConnection:
            return open_session(
                self.target,
                credentials,
                fence,
                program_name=program_name,
                usable_until_ms=usable_until_ms,
                clock=self.clock,
            )

        return self.credentials.sign_in(self.secret_arn, connect, deadline)
