"""The monitoring user's session, kept from round to round.

It is kept while leases are in use: if other clients use up the server, the janitor and an operator still have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from connection_governor.database.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable

FROM_ROUND_TO_ROUND: Final = Fence(idle_seconds=150)
NAME: Final = "governor-janitor"
"""What the session calls itself."""


class _Session(Protocol):
    def is_alive(self) -> bool: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=_Session)


class KeptSession(Generic[S]):
    """One session, opened at its first use and again where the server has ended it.

    Args:
        open_one: opens a session behind `FROM_ROUND_TO_ROUND`, by the name `NAME`.
    """

    def __init__(self, open_one: Callable[[], S]) -> None:
        self._open_one = open_one
        self._session: S | None = None

    def current(self) -> S:
        """Return the session. Raises what opening raises."""
        if self._session is not None and not self._session.is_alive():
            self._session = None
        if self._session is None:
            self._session = self._open_one()
        return self._session

    def close(self) -> None:
        """Close the session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
