"""The janitor's eye on MySQL: the governed users' sessions, seen and ended as the monitoring user."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from connection_governor.mysql.fence import Fence
from connection_governor.mysql.observe import kill, observe
from connection_governor.wiring import opener

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.mysql.connect import FencedConnection
    from connection_governor.mysql.observe import Observation, Session
    from connection_governor.wiring import Environment


class MySQLWatch:
    """See `connection_governor.server.janitor.Watch`.

    Args:
        connection: of the monitoring user.
        users: names under which governed workers sign in.
    """

    def __init__(self, connection: FencedConnection, users: tuple[str, ...]) -> None:
        self._connection = connection
        self._users = users

    def observe(self) -> Observation:
        """The governed users' sessions at this moment."""
        return observe(self._connection, self._users)

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""
        return kill(self._connection, session)


@contextmanager
def watching(here: Environment) -> Iterator[MySQLWatch]:
    """A watch on the database that the environment names, for one round."""
    users = tuple(here.required("DB_WORKER_USERS").split(","))
    connection = opener(here).open(Fence(idle_seconds=30), "governor-janitor", None)
    try:
        yield MySQLWatch(connection, users)
    finally:
        connection.close()
