"""A database's user and password: read from Secrets Manager once, and again if the database denies them."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Protocol, TypeVar

from connection_governor.core.values import dataclass, field
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from connection_governor.core.deadline import Deadline

    Attempts = Callable[[], Generator["Login"]]
    Logins = Callable[[Deadline | None], Generator["Login"]]
    IsDenied = Callable[[Exception], bool]

Session = TypeVar("Session")


@dataclass(frozen=True, slots=True)
class Login:
    """User and password of a database. The password is kept out of `repr`, and so out of logs and tracebacks.

    Attributes:
        is_token: whether the password is a token, which ends by itself. Only a token is ever sent in clear text where
            the server asks for that, and only over TLS.
    """

    username: str
    password: str = field(repr=False)
    is_token: bool = False


class Fetch(Protocol):
    """Reads secrets."""

    def __call__(self, arn: str, deadline: Deadline | None = None, /) -> str:
        """Return the string of a secret; no request outlasts the deadline."""


def sign_in(attempts: Generator[Login], connect: Callable[[Login], Session]) -> Session:
    """Return what `connect` returns for the first credentials that the database accepts.

    Raises:
        Exception: what `connect` raises, with the last of them if it was denied.
    """
    credentials = next(attempts)
    while True:
        try:
            return connect(credentials)
        except Exception as denied:  # noqa: BLE001 - the attempts raise what is no denial
            credentials = attempts.throw(denied)


def only(credentials: Login) -> Attempts:
    """Return the attempts of credentials that do not change."""

    def attempts() -> Generator[Login]:
        yield credentials

    return attempts


class DatabaseCredentials:
    """Credentials by the secret's ARN, kept for the life of the environment. Safe to share among threads.

    Args:
        fetch: from a secret's ARN to its string, as GetSecretValue answers it.
        is_denied: whether the driver's error means that the database has denied the credentials.
    """

    def __init__(self, fetch: Fetch, is_denied: IsDenied) -> None:
        self._fetch = fetch
        self._is_denied = is_denied
        self._known: dict[str, Login] = {}
        self._lock = threading.Lock()

    def get(self, arn: str, deadline: Deadline | None = None) -> Login:
        """Return the credentials last read, or read now.

        Raises:
            InvalidRequest: the secret is not a JSON object with texts for `username` and `password`.
        """
        with self._lock:
            known = self._known.get(arn)
        return known or self._read(arn, deadline)

    def attempts(self, arn: str, deadline: Deadline | None = None) -> Generator[Login]:
        """Yield the credentials to try; if the database's denial is thrown in, yield the secret's present ones.

        Rotation changes the password while environments still remember the old one. An unchanged secret is not tried
        twice: a wrong one would cost each invocation two denials.

        Raises:
            Exception: the error that was thrown in, if another attempt is pointless.
            InvalidRequest: as `get`.
        """
        tried = self.get(arn, deadline)
        try:
            yield tried
        except Exception as denied:
            if not self._is_denied(denied):
                raise
            newest = self.newer_than(tried, arn, deadline)
            if newest == tried:
                raise
            yield newest

    def sign_in(self, arn: str, connect: Callable[[Login], Session], deadline: Deadline | None = None) -> Session:
        """Return what `connect` returns, with the newest credentials. Raises as `attempts`, and as `connect`."""
        return sign_in(self.attempts(arn, deadline), connect)

    def newer_than(self, tried: Login, arn: str, deadline: Deadline | None = None) -> Login:
        """Return the secret's present credentials, after a denial of `tried`. Raises as `get`."""
        with self._lock:
            known = self._known.get(arn)
        if known is not None and known != tried:  # another thread has read it again already
            return known
        return self._read(arn, deadline)

    def _read(self, arn: str, deadline: Deadline | None) -> Login:
        credentials = _parse(self._fetch(arn, deadline), arn)
        with self._lock:
            self._known[arn] = credentials
        return credentials


def _parse(secret: str, arn: str) -> Login:
    try:
        content = json.loads(secret)
    except ValueError:
        content = None  # the error would carry the secret's text into a traceback
    if not isinstance(content, dict):
        raise InvalidRequest("secret", f"{arn} must be a JSON object with `username` and `password`")
    return Login(_text("username", content, arn), _text("password", content, arn))


def _text(key: str, content: dict[str, object], arn: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(key, f"must be a text in the secret {arn}")
    return value
