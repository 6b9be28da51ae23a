"""Tokens with which a user signs in to a database in place of a password: presigned requests, valid for 15 minutes.

Sources: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html,
https://docs.aws.amazon.com/aurora-dsql/latest/userguide/SECTION_authentication-token.html
A token is signed here, without a request to AWS. It is kept all the same: RDS limits new connections by IAM to 200 a
second, and does not count those that repeat a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connection_governor.aws.sigv4 import Signer
from connection_governor.core.deadline import Deadline
from connection_governor.core.values import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor.aws.credentials import CredentialSource
    from connection_governor.aws.sigv4 import AwsCredentials
    from connection_governor.core.clock import Clock

VALID_SECONDS: Final = 900
KEPT_MS: Final = 600_000  # a session that is opened just before that still has five minutes to sign in
RECENT_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a token asks for: to connect as one user.

    Attributes:
        service: whose signature it is, as `rds-db`.
        region: the database's.
        authority: its host, with `:port` where the service signs it.
        parameters: of the query.
    """

    service: str
    region: str
    authority: str
    parameters: Mapping[str, str]


def rds_request(region: str, host: str, port: int, user: str) -> TokenRequest:
    """Return what RDS and Aurora check: the endpoint's own name, not another one that leads to it."""
    return TokenRequest("rds-db", region, f"{host}:{port}", {"Action": "connect", "DBUser": user})


def dsql_request(region: str, host: str, user: str) -> TokenRequest:
    """Return what Aurora DSQL checks: the cluster's host without a port, and only whether the user is `admin`."""
    action = "DbConnectAdmin" if user == "admin" else "DbConnect"
    return TokenRequest("dsql", region, host, {"Action": action})


class DatabaseTokens:
    """The tokens of one user of one database. Safe to share among threads.

    Args:
        request: what they ask for.
        credentials: who asks.
        clock: dates the tokens; it must be within minutes of AWS's.
    """

    def __init__(self, request: TokenRequest, credentials: CredentialSource, clock: Clock) -> None:
        self._request = request
        self._signer = Signer(request.service, request.region)
        self._credentials = credentials
        self._clock = clock
        self._kept: _Token | None = None

    def current(self) -> str:
        """Return the kept token, or a new one: for other credentials, and from ten minutes on.

        Raises:
            GovernorUnavailable: there are no credentials to sign with.
        """
        credentials, kept = self._credentials.current(), self._kept
        if kept is None or kept.credentials != credentials or kept.is_older_than(KEPT_MS, self._clock):
            kept = self._made(credentials)
        return kept.text

    def newer_than(self, refused: str) -> str:
        """Return a new token after a refusal of this one; the same if it was made within the last seconds.

        The same token is then worth another try: a refusal for the rate of sign-ins looks like any other.
        Raises as `current`.
        """
        kept = self._kept
        if kept is not None and kept.text == refused and kept.is_older_than(RECENT_MS, self._clock):
            return self._made(self._credentials.current()).text
        return self.current()

    def _made(self, credentials: AwsCredentials) -> _Token:
        request, clock = self._request, self._clock
        now_ms = clock.now_ms()
        text = self._signer.presigned(
            request.authority, request.parameters, credentials, now_ms, expires_seconds=VALID_SECONDS
        )
        # One assignment of a whole value: another thread sees the old token or the new one.
        self._kept = token = _Token(text, credentials, now_ms, Deadline.after(0, clock))
        return token


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, kept out of `repr`; the credentials that signed it, and when that was by either clock."""

    text: str = field(repr=False)
    credentials: AwsCredentials
    made_ms: int
    made: Deadline

    def is_older_than(self, age_ms: int, clock: Clock) -> bool:
        """Return whether it is, by either clock: one may be set back, the other may stop in a freeze."""
        return not 0 <= clock.now_ms() - self.made_ms < age_ms or -self.made.left_ms() >= age_ms
