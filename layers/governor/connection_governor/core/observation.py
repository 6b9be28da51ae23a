"""A database's sessions as its server lists them, and the lease that each one names."""

from __future__ import annotations

import re
from typing import Final

from connection_governor.core.values import dataclass

SESSION_NAME: Final = "governor:([A-Za-z0-9_-]{8,16}):([A-Za-z0-9_-]{1,32})#[0-9]+"
"""A governed session's name, with its lease and database; written so that the servers' regular expressions know it."""

_NAMED: Final = re.compile(SESSION_NAME)


def is_session_name(name: str) -> bool:
    """Return whether a governed session may have this name."""
    return _NAMED.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the server lists it.

    Attributes:
        connection_id: the server's number for it: MySQL's for KILL, the process on PostgreSQL.
        user: the user that signed in.
        host: the client's address.
        command: its present command, such as `Sleep` or `Query`.
        seconds: for how long.
        program_name: the name it gave itself on connecting, or None if it gave none or the server keeps none.
        started: when it began, where numbers are used again; empty on MySQL.
    """

    connection_id: int
    user: str
    host: str
    command: str
    seconds: int
    program_name: str | None
    started: str = ""

    @property
    def lease_id(self) -> str | None:
        """The lease it was opened under; None for an ungoverned one."""
        named = _NAMED.fullmatch(self.program_name or "")
        return named[1] if named else None

    @property
    def database(self) -> str | None:
        """The governed database whose budget granted the lease: one server may hold several."""
        named = _NAMED.fullmatch(self.program_name or "")
        return named[2] if named else None


@dataclass(frozen=True, slots=True)
class Observation:
    """The sessions of the governed users at one moment.

    Attributes:
        sessions: all of them, other than the observer's own.
        names_known: whether the server keeps the names of sessions. If not, no session can be matched to a lease: then
            nothing may be concluded about leases, and no session may be killed.
        statement_limit_missing: why the server limits not every kind of statement; None if it does.
    """

    sessions: tuple[Session, ...]
    names_known: bool
    statement_limit_missing: str | None = None

    @property
    def ungoverned(self) -> int | None:
        """How many sessions hold no lease; None if the server keeps no names."""
        if not self.names_known:
            return None
        return sum(session.lease_id is None for session in self.sessions)
