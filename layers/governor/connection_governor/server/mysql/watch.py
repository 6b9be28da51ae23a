"""The janitor's view of MySQL: the governed users' sessions, listed and ended as the monitoring user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymysql import err

from connection_governor.core.values import replace
from connection_governor.mysql.observe import end, kill, observe
from connection_governor.server.kept_session import FROM_ROUND_TO_ROUND, NAME, KeptSession
from connection_governor.server.mysql import limit_procedure, statement_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.observation import Observation, Session
    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.opener import Opener


class MySQLWatch:
    """See `ports.KeptWatch`. Connects at the first use, so that a failure to connect is a failure to observe.

    Args:
        make_opener: returns what opens sessions of the monitoring user.
        users: returns the names with which governed workers sign in, the seeded one first.
    """

    name = "MySQL"
    error: type[Exception] = err.MySQLError

    def __init__(self, make_opener: Callable[[], Opener], users: Callable[[], Sequence[str]]) -> None:
        self._users = users
        self._session: KeptSession[FencedConnection] = KeptSession(
            lambda: make_opener().open(FROM_ROUND_TO_ROUND, NAME, None)
        )

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""
        users = tuple(self._users())
        connection = self._session.current()
        observation = observe(connection, users)
        if connection.is_mariadb:
            return observation
        with connection.cursor() as cursor:
            return replace(observation, statement_limit_missing=statement_limit.missing(cursor, worker=users[0]))

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._session.current(), session)

    def end(self, session: Session) -> bool:
        """End an observed session, with a lease or without."""
        return end(self._session.current(), session)

    def limit(self, connections: int) -> None:
        """Set the limit of the seeded worker's user."""
        with self._session.current().cursor() as cursor:
            limit_procedure.call(cursor, worker=self._users()[0], connections=connections)

    def close(self) -> None:
        """Close the monitoring user's session, if there is one."""
        self._session.close()
