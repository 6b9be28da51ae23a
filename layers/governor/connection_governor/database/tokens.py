"""Tokens as credentials to try: a refused token is made anew once, and a throttled sign-in is tried again.

Known from RDS's documentation only: a sign-in that is throttled is refused like one with a wrong token, and the reason
stands in the server's own log. So each refusal of a new token is retried, a bounded number of times, with full jitter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from connection_governor.core.deadline import RESERVE_MS
from connection_governor.database.credentials import Login

if TYPE_CHECKING:
    from collections.abc import Generator

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.database.credentials import IsDenied

PAUSES_MS: Final = (200, 400, 800, 1_600, 3_200)
"""The longest pause before each retry: nine of ten sign-ins of a crowd of 1,000 pass a limit of 200 a second."""


class Tokens(Protocol):
    """The tokens of one user of one database."""

    def current(self) -> str:
        """Return a token that is valid now. Raises `GovernorUnavailable` if there are no credentials to sign with."""

    def newer_than(self, refused: str) -> str:
        """Return a new token after a refusal of this one; the same if it was made just now. Raises as `current`."""


class TokenCredentials:
    """One user's name with a token for each opening.

    Args:
        username: the database's user.
        tokens: where the tokens come from.
        is_denied: whether the driver's error means that the server has refused the token, or throttles.
        clock: waits between the tries.
        entropy: draws how long.
        is_throttled: whether the driver's error means that too many sessions are opened, whatever their tokens.
    """

    def __init__(
        self,
        username: str,
        tokens: Tokens,
        is_denied: IsDenied,
        clock: Clock,
        entropy: Entropy,
        *,
        is_throttled: IsDenied = lambda _: False,
    ) -> None:
        self._username = username
        self._tokens = tokens
        self._is_denied = is_denied
        self._is_throttled = is_throttled
        self._clock = clock
        self._entropy = entropy

    def attempts(self, deadline: Deadline | None = None) -> Generator[Login]:
        """Yield the credentials to try; if the database's denial is thrown in, yield others, or the same once more.

        Raises:
            Exception: the error that was thrown in, if it is no denial, or no try or time is left.
            GovernorUnavailable: there are no credentials to sign a token with.
        """
        tried, pauses_ms, may_renew = self._tokens.current(), iter(PAUSES_MS), True
        while True:
            try:
                yield Login(self._username, tried, is_token=True)
            except Exception as denied:
                is_denied = self._is_denied(denied)
                if not is_denied and not self._is_throttled(denied):
                    raise
                newest = self._tokens.newer_than(tried) if is_denied and may_renew else tried
                may_renew = may_renew and not is_denied
                if newest == tried and not self._paused(next(pauses_ms, None), deadline):
                    denied.add_note(
                        "signed in by IAM: RDS writes the reason to its log iam-db-auth-error, as NotAuthorized, "
                        "ExpiredToken or ThrottlingException"
                    )
                    raise
                tried = newest
            else:
                return

    def _paused(self, longest_ms: int | None, deadline: Deadline | None) -> bool:
        """Wait before another try; return whether there was a try, and time, left for it."""
        if longest_ms is None:
            return False
        pause_ms = self._entropy.fraction() * longest_ms
        if deadline is not None and pause_ms >= deadline.before(RESERVE_MS).left_ms():
            return False
        self._clock.sleep(pause_ms / 1_000)
        return True
