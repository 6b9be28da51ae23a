"""The interfaces that the functions need of a kind of database. Each kind has a folder here with its own SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.observation import Observation, Session
    from connection_governor.server.seed_properties import SeedProperties


class Watch(Protocol):
    """A server's own view of its sessions, as the janitor needs it. Each method raises `error` or GovernorError.

    Attributes:
        error: what its driver raises if the server refuses, or cannot be reached.
    """

    error: type[Exception]

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""

    def kill(self, session: Session) -> bool:
        """End a session, if it is still the same one."""


class Reach(Protocol):
    """A server as an operator's actions need it. Each method raises `error` or GovernorError.

    Attributes:
        name: the server's kind, for messages.
        error: what its driver raises if the server refuses, or cannot be reached.
    """

    name: str
    error: type[Exception]

    def observe(self) -> Observation:
        """Return the governed users' sessions at this moment."""

    def end(self, session: Session) -> bool:
        """End a session that was just observed, with a lease or without; return whether it was still there."""

    def limit(self, connections: int) -> None:
        """Set the limit of the seeded worker's user."""


class KeptWatch(Watch, Reach, Protocol):
    """Both, over one session of the monitoring user. It connects at the first use."""

    def close(self) -> None:
        """Close the session, if there is one."""


class Administrator(Protocol):
    """The administrator's session while a database is seeded. What it makes is changed where it exists already."""

    def room(self) -> int:
        """Return how many connections the server takes from users without special rights."""

    def make_sample(self) -> None:
        """Create and fill the example's table where there is none."""

    def make_worker(self, *, limit: int) -> Sequence[str]:
        """Create or change the worker's user: its password, rights and limit; return what it cannot do, as notes."""

    def make_monitor(self) -> Sequence[str]:
        """Create or change the monitoring user and what it needs; return what the janitor cannot do, as notes."""

    def leave(self, replaced: tuple[str, str]) -> None:
        """Drop the earlier worker's and monitor's users and what belongs to them, where they have other names now."""

    def remove(self) -> None:
        """Drop the users, and the table and schema that the seed created."""

    def close(self) -> None:
        """End the session."""


class Administration(Protocol):
    """Signs in to a kind of database's server for the seed.

    Attributes:
        name: the server's kind, for messages.
        error: what its driver raises if the server refuses, or cannot be reached.
        room: what limits its connections, in its own words.
    """

    name: str
    error: type[Exception]
    room: str

    def connect(self, wanted: SeedProperties) -> Administrator:
        """Sign in as the administrator. Raises `error`."""

    def may_answer_later(self, refused: Exception) -> bool:
        """Return whether this failure to sign in may pass within seconds."""

    def check_sign_in(self, wanted: SeedProperties, secret: str) -> None:
        """Sign in as a user that was just made. Raises `SeedError` if the server refuses its new password."""


class SeedError(Exception):
    """The database cannot be seeded as asked; the message is for the operator and holds no secret."""
