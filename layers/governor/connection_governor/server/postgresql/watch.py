"""The janitor's view of PostgreSQL: the governed roles' sessions, listed and ended as the monitoring role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from connection_governor.postgresql.observe import end, kill, observe
from connection_governor.server.kept_session import FROM_ROUND_TO_ROUND, NAME, KeptSession
from connection_governor.server.postgresql import limit_function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.observation import Observation, Session
    from connection_governor.postgresql.opener import Opener
    from connection_governor.postgresql.session import FencedConnection


class PostgreSQLWatch:
    """See `ports.KeptWatch`. Connects at the first use, so that a failure to connect is a failure to observe.

    Args:
        make_opener: returns what opens sessions of the monitoring role.
        users: returns the names with which governed workers sign in, the seeded one first.
    """

    name = "PostgreSQL"
    error: type[Exception] = psycopg.Error

    def __init__(self, make_opener: Callable[[], Opener], users: Callable[[], Sequence[str]]) -> None:
        self._users = users
        self._session: KeptSession[FencedConnection] = KeptSession(
            lambda: make_opener().open(FROM_ROUND_TO_ROUND, NAME, None, autocommit=True)
        )

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""
        users = tuple(self._users())
        return observe(self._session.current(), users)

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._session.current(), session)

    def end(self, session: Session) -> bool:
        """End an observed session, with a lease or without."""
        return end(self._session.current(), session)

    def limit(self, connections: int) -> None:
        """Set the limit of the seeded worker's role."""
        with self._session.current().cursor() as cursor:
            limit_function.call(cursor, worker=self._users()[0], connections=connections)

    def close(self) -> None:
        """Close the monitoring role's session, if there is one."""
        self._session.close()
