"""An operator's requests to the janitor function, which reaches a database that no laptop reaches at 3 a.m.

Each request is logged with the caller's own name for itself; AWS CloudTrail records the invoking principal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core import checks
from connection_governor.errors import GovernorError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.core.observation import Session
    from connection_governor.core.operations import Operations
    from connection_governor.server.ports import Reach

ACTIONS = ("sessions", "kill", "limit")
_MOST_CONNECTIONS = 100_000
_LONGEST_NAME = 128


class OperatorRequests:
    """Answers the janitor function's actions.

    Args:
        operations: the leases.
        reach: the server, as the monitoring user reaches it.
        database: the governed database that this function looks after.
        note: writes one line to the log.
    """

    def __init__(
        self, operations: Operations, reach: Reach, database: str, note: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self._operations = operations
        self._reach = reach
        self._database = database
        self._note = note

    def answer(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one action.

        Returns:
            The action's answer, or `{"error": {"code", "message", "field"?}}`: it never raises for a bad request.
        """
        try:
            answer = self._carry_out(event)
        except InvalidRequest as error:
            answer = _error("invalid_request", error.message, field=error.field)
        except GovernorError as error:
            answer = _error("unavailable", str(error))
        except self._reach.error as error:
            answer = _error("unavailable", f"{self._reach.name}: {error.args}")
        asked = {key: event.get(key) for key in ("action", "by", "lease_id", "session", "connections")}
        shown = {key: answer.get(key) for key in ("killed", "limit", "error")}
        self._note("operator action", {"database": self._database, **_given(asked), **_given(shown)})
        return answer

    def _carry_out(self, event: Mapping[str, Any]) -> dict[str, Any]:
        action = event.get("action")
        if action not in ACTIONS:
            raise InvalidRequest("action", f"must be one of {', '.join(ACTIONS)}")
        if event.get("database") not in (None, self._database):
            raise InvalidRequest("database", f"this janitor looks after {self._database}")
        if len(str(event.get("by") or "")) > _LONGEST_NAME:
            raise InvalidRequest("by", f"must have at most {_LONGEST_NAME} characters")
        return {"sessions": self._sessions, "kill": self._kill, "limit": self._limit}[action](event)

    def _sessions(self, _event: Mapping[str, Any]) -> dict[str, Any]:
        seen = self._reach.observe()
        leases = {lease.lease_id: lease for lease in self._operations.status(self._database).leases()}
        rows = []
        for session in seen.sessions:
            lease = leases.get(session.lease_id or "") if session.database == self._database else None
            row = _row(session)
            row |= {"holder": lease and lease.holder, "expires_at_ms": lease and lease.expires_at_ms}
            rows.append(row)
        return {"database": self._database, "names_known": seen.names_known, "sessions": rows}

    def _kill(self, event: Mapping[str, Any]) -> dict[str, Any]:
        lease_id, number = event.get("lease_id"), event.get("session")
        if (lease_id is None) == (number is None):
            raise InvalidRequest("session", "give either session or lease_id")
        if number is not None:
            checks.whole_number("session", number, least=1, most=2**64 - 1)
        seen = self._reach.observe()
        if lease_id is not None and not seen.names_known:
            raise InvalidRequest("lease_id", "this server does not keep the names of sessions: give session")
        chosen = (number, None, None) if lease_id is None else (None, lease_id, self._database)
        wanted = [s for s in seen.sessions if chosen in (_by_number(s), _by_lease(s))]
        return {"killed": [session.connection_id for session in wanted if self._reach.end(session)]}

    def _limit(self, event: Mapping[str, Any]) -> dict[str, Any]:
        connections: Any = event.get("connections")
        checks.whole_number("connections", connections, least=1, most=_MOST_CONNECTIONS)
        allowed = self._operations.status(self._database).settings.allowed
        if connections < allowed:
            raise InvalidRequest("connections", f"must be {allowed} or more, the budget: lower that first")
        self._reach.limit(connections)
        return {"limit": connections, "allowed": allowed}


def _by_number(session: Session) -> tuple[int | None, str | None, str | None]:
    return session.connection_id, None, None


def _by_lease(session: Session) -> tuple[int | None, str | None, str | None]:
    return None, session.lease_id, session.database  # ids are unique within a database only


def _row(session: Session) -> dict[str, Any]:
    return {
        "session": session.connection_id,
        "user": session.user,
        "host": session.host,
        "command": session.command,
        "seconds": session.seconds,
        "lease_id": session.lease_id,
        "database": session.database,
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _error(code: str, message: str, **field: str) -> dict[str, Any]:
    return {"error": {"code": code, **field, "message": message}}
