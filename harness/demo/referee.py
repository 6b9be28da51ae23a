"""The database's own figures in a demo run: counted by the server, on a connection of its administrator."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.postgresql import PrivatePostgreSQL
from harness.stack.sockets import owners

if TYPE_CHECKING:
    from harness.stack.database_server import DatabaseServer

WORKER_USER: Final = "governed_worker"  # the template's default


class Referee(Protocol):
    """What a server knows of the workers' sessions, all of which sign in as one user."""

    def sessions(self) -> int:
        """Return how many there are now."""

    def begun(self) -> int:
        """Return how many there have been since the server was started."""

    def refused(self) -> int:
        """Return how many it has refused since it was started, because there were too many."""

    def holders(self, group: int, least_silence_ms: int) -> dict[int, int]:
        """Return those that have been silent for so long: their client's process, by the session's number.

        Args:
            group: the process group that the clients belong to.
            least_silence_ms: such a session has run its query, and is held.
        """

    def close(self) -> None:
        """End the connection."""


class MySQLReferee:
    """MySQL's and MariaDB's figures."""

    # Sessions that are still rolling back are in this table, and missing in the process list.
    _SESSIONS: Final = (
        "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s AND processlist_id IS NOT NULL"
    )
    _LOGINS: Final = "SELECT COALESCE(MAX(total_connections), 0) FROM performance_schema.users WHERE user = %s"
    _REFUSED: Final = "SHOW GLOBAL STATUS LIKE 'Aborted_connects'"  # each error 1040 and 1226 counts here, once
    # MySQL's process list has whole seconds only, its performance schema the end of each session's last statement, by
    # the same clock as the start of ours. MariaDB fills no such table by default.
    _HOLDERS = """
        SELECT t.processlist_id, a.attr_value
        FROM performance_schema.threads t
        JOIN performance_schema.session_connect_attrs a ON a.processlist_id = t.processlist_id AND a.attr_name = '_pid'
        JOIN performance_schema.events_statements_current theirs ON theirs.thread_id = t.thread_id
        JOIN performance_schema.events_statements_current ours ON ours.thread_id = PS_CURRENT_THREAD_ID()
        WHERE t.processlist_user = %s AND t.processlist_command = 'Sleep'
          AND ours.timer_start - theirs.timer_end > %s * 1000000000
    """

    def __init__(self, server: DatabaseServer) -> None:
        self._connection = server.root()

    def sessions(self) -> int:
        """Return how many there are now."""
        return int(self._rows(self._SESSIONS, WORKER_USER)[0][0])

    def begun(self) -> int:
        """Return how many there have been since the server was started; MySQL counts those that it refused, too."""
        return self._logins() - self.refused()

    def refused(self) -> int:
        """Return how many it has refused since it was started."""
        return int(self._rows(self._REFUSED)[0][1])

    def holders(self, _group: int, least_silence_ms: int) -> dict[int, int]:
        """Return those that have been silent for so long; the clients name their processes themselves."""
        rows = self._rows(self._HOLDERS, WORKER_USER, least_silence_ms)
        return {int(session): int(pid) for session, pid in rows}

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _logins(self) -> int:
        return int(self._rows(self._LOGINS, WORKER_USER)[0][0])

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())


class MariaDBReferee(MySQLReferee):
    """As MySQL, with a process list in milliseconds."""

    _HOLDERS = """
        SELECT s.id, a.attr_value
        FROM information_schema.processlist s JOIN performance_schema.session_connect_attrs a ON a.processlist_id = s.id
        WHERE s.user = %s AND s.command = 'Sleep' AND s.time_ms > %s AND a.attr_name = '_pid'
    """

    def begun(self) -> int:
        """Return how many there have been since the server was started."""
        return self._logins()


class PostgreSQLReferee:
    """PostgreSQL's figures. It has no counter of logins: its log has a line for each, with the SQLSTATE."""

    _SESSIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    _SILENT: Final = """
        SELECT client_port, pid FROM pg_stat_activity WHERE usename = %s AND state LIKE 'idle%%'
           AND clock_timestamp() - state_change > %s * interval '1 millisecond'
    """
    _BEGUN: Final = re.compile(rf"^00000 {WORKER_USER} LOG: +connection authorized", re.MULTILINE)
    _REFUSED: Final = re.compile(rf"^53300 {WORKER_USER} FATAL", re.MULTILINE)

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        self._connection = server.root()

    def sessions(self) -> int:
        """Return how many there are now."""
        ((count,),) = self._connection.execute(self._SESSIONS, (WORKER_USER,)).fetchall()
        return int(count)

    def begun(self) -> int:
        """Return how many the server has let in; it writes that line before it looks at the role's limit."""
        return self._lines(self._BEGUN) - self.refused()

    def refused(self) -> int:
        """Return how many it has refused since it was started."""
        return self._lines(self._REFUSED)

    def holders(self, group: int, least_silence_ms: int) -> dict[int, int]:
        """Return those that have been silent for so long; the kernel knows whose a client's port is."""
        silent = self._connection.execute(self._SILENT, (WORKER_USER, least_silence_ms)).fetchall()
        pids = owners({int(port) for port, _ in silent}, group)
        return {int(session): pids[port] for port, session in silent if port in pids}

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _lines(self, pattern: re.Pattern[str]) -> int:
        return len(pattern.findall(self._server.log.read_text(errors="replace")))


REFEREES: Final[dict[str, type[Referee]]] = {
    PrivateMySQL.ENGINE: MySQLReferee,
    PrivateMariaDB.ENGINE: MariaDBReferee,
    PrivatePostgreSQL.ENGINE: PostgreSQLReferee,
}


def referee_of(server: DatabaseServer) -> Referee:
    """Return the figures of this server, on a new connection."""
    return REFEREES[server.ENGINE](server)  # type: ignore[call-arg]  # a protocol says nothing of how it is made
