"""The janitor's view of MySQL: the governed users' sessions, listed and ended as the monitoring user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.mysql.fence import Fence
from connection_governor.mysql.observe import kill, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.observe import Observation, Session
    from connection_governor.mysql.opener import Opener


class MySQLWatch:
    """See `janitor.Watch`. Connects at the first use, so that a failure to connect is a failure to observe.

    Args:
        opener: returns what opens sessions of the monitoring user.
        users: returns the names with which governed workers sign in.
    """

    def __init__(self, opener: Callable[[], Opener], users: Callable[[], Sequence[str]]) -> None:
        self._opener = opener
        self._users = users
        self._session: FencedConnection | None = None

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""
        users = tuple(self._users())
        return observe(self._connection(), users)

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._connection(), session)

    def close(self) -> None:
        """Close the monitoring user's session, if there is one."""
        if self._session is not None:
            self._session.close()

    def _connection(self) -> FencedConnection:
        if self._session is None:
            self._session = self._opener().open(Fence(idle_seconds=30), "governor-janitor", None)
        return self._session
