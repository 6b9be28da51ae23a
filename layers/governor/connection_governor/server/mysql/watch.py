"""The janitor's view of MySQL: the governed users' sessions, listed and ended as the monitoring user.

The session is kept from round to round while leases are in use: if other clients use up `max_connections`, the janitor
and an operator still have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pymysql import err

from connection_governor.core.values import replace
from connection_governor.database.fence import Fence
from connection_governor.mysql.observe import end, kill, observe
from connection_governor.server.mysql import limit_procedure, statement_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.observation import Observation, Session
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.opener import Opener


_FROM_ROUND_TO_ROUND: Final = Fence(idle_seconds=150)


class MySQLWatch:
    """See `ports.KeptWatch`. Connects at the first use, so that a failure to connect is a failure to observe.

    Args:
        make_opener: returns what opens sessions of the monitoring user.
        users: returns the names with which governed workers sign in, the seeded one first.
    """

    name = "MySQL"
    error: type[Exception] = err.MySQLError

    def __init__(self, make_opener: Callable[[], Opener], users: Callable[[], Sequence[str]]) -> None:
        self._make_opener = make_opener
        self._users = users
        self._session: FencedConnection | None = None

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""
        users = tuple(self._users())
        connection = self._connection()
        observation = observe(connection, users)
        if connection.is_mariadb:
            return observation
        with connection.cursor() as cursor:
            return replace(observation, statement_limit_missing=statement_limit.missing(cursor, worker=users[0]))

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._connection(), session)

    def end(self, session: Session) -> bool:
        """End an observed session, with a lease or without."""
        return end(self._connection(), session)

    def limit(self, connections: int) -> None:
        """Set the limit of the seeded worker's user."""
        with self._connection().cursor() as cursor:
            limit_procedure.call(cursor, worker=self._users()[0], connections=connections)

    def close(self) -> None:
        """Close the monitoring user's session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _connection(self) -> FencedConnection:
        if self._session is not None and not self._session.is_alive():
            self._session = None
        if self._session is None:
            self._session = self._make_opener().open(_FROM_ROUND_TO_ROUND, "governor-janitor", None)
        return self._session
