"""The janitor's view of PostgreSQL: the governed roles' sessions, listed and ended as the monitoring role.

The session is kept from round to round while leases are in use: if other clients use up `max_connections`, the janitor
and an operator still have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from connection_governor.database.fence import Fence
from connection_governor.postgresql.observe import end, kill, observe
from connection_governor.server.postgresql import limit_function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.observation import Observation, Session
    from connection_governor.postgresql.opener import Opener
    from connection_governor.postgresql.session import FencedConnection

_FROM_ROUND_TO_ROUND: Final = Fence(idle_seconds=150)


class PostgreSQLWatch:
    """See `ports.KeptWatch`. Connects at the first use, so that a failure to connect is a failure to observe.

    Args:
        make_opener: returns what opens sessions of the monitoring role.
        users: returns the names with which governed workers sign in, the seeded one first.
    """

    name = "PostgreSQL"
    error: type[Exception] = psycopg.Error

    def __init__(self, make_opener: Callable[[], Opener], users: Callable[[], Sequence[str]]) -> None:
        self._make_opener = make_opener
        self._users = users
        self._session: FencedConnection | None = None

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""
        users = tuple(self._users())
        return observe(self._connection(), users)

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._connection(), session)

    def end(self, session: Session) -> bool:
        """End an observed session, with a lease or without."""
        return end(self._connection(), session)

    def limit(self, connections: int) -> None:
        """Set the limit of the seeded worker's role."""
        with self._connection().cursor() as cursor:
            limit_function.call(cursor, worker=self._users()[0], connections=connections)

    def close(self) -> None:
        """Close the monitoring role's session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _connection(self) -> FencedConnection:
        if self._session is not None and not self._session.is_alive():
            self._session = None
        if self._session is None:
            opener = self._make_opener()
            self._session = opener.open(_FROM_ROUND_TO_ROUND, "governor-janitor", None, autocommit=True)
        return self._session
