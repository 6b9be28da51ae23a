"""Sign requests to AWS: Signature Version 4, in an Authorization header or in the query. Pure: the time is passed in.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
Left out, because no request here needs it: streaming requests, presigned ones with a path or a body, S3's path rules,
dot segments in paths.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNRESERVED_AND_SLASH = _UNRESERVED | frozenset(b"/")
_ALGORITHM = "AWS4-HMAC-SHA256"
_NO_BODY = sha256(b"").hexdigest()
_PORT_OF_HTTPS = ":443"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """An access key; `token` comes with temporary ones. Printing it shows no secret."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"AwsCredentials(access_key={self.access_key!r})"


class CanonicalRequest:
    """The parts that all requests of one kind share: path, headers and token, already canonical.

    Attributes:
        headers: names in lower case, as given, with the token; without the date and the authorization.
        names: the signed headers, joined by semicolons.
    """

    __slots__ = ("_after_date", "_before_date", "headers", "names")

    def __init__(self, method: str, target: str, headers: Mapping[str, str], token: str | None) -> None:
        self.headers = {name.lower(): value for name, value in headers.items()}
        if token:
            self.headers["x-amz-security-token"] = token
        names = sorted([*self.headers, "x-amz-date"])
        self.names = ";".join(names)
        lines = [f"{name}:{' '.join(self.headers.get(name, '').split())}\n" for name in names]
        date_at = names.index("x-amz-date")
        path, _, query = target.partition("?")
        above = f"{method}\n{_canonical_path(path)}\n{_canonical_query(query)}\n"
        self._before_date = f"{above}{''.join(lines[:date_at])}x-amz-date:"
        self._after_date = f"\n{''.join(lines[date_at + 1 :])}\n{self.names}\n"

    def digest(self, timestamp: str, body: bytes) -> str:
        """Return the canonical request's hash."""
        canonical = f"{self._before_date}{timestamp}{self._after_date}{sha256(body).hexdigest()}"
        return sha256(canonical.encode()).hexdigest()


class Signer:
    """Signs for one service of one region; keeps the day's signing key (four HMACs saved per request)."""

    __slots__ = ("_key", "_region", "_second", "_service")

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        self._key: tuple[str, str, bytes] = ("", "", b"")
        self._second: tuple[int, str] = (-1, "")

    def authorize(
        self, request: CanonicalRequest, body: bytes, credentials: AwsCredentials, now_ms: int
    ) -> tuple[str, str]:
        """Return the values of the two headers that change with each request: x-amz-date and authorization."""
        timestamp = self._timestamp(now_ms // 1_000)
        scope = self._scope(timestamp)
        signature = self._signature(timestamp, scope, request.digest(timestamp, body), credentials.secret_key)
        return timestamp, (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={request.names}, Signature={signature}"
        )

    def presigned(
        self,
        authority: str,
        parameters: Mapping[str, str],
        credentials: AwsCredentials,
        now_ms: int,
        *,
        expires_seconds: int,
    ) -> str:
        """Return a GET request whose signature stands in its query, without `https://`: a token for a database.

        Args:
            authority: the host, with `:port` if there is one. As in a browser, port 443 is not signed.
            parameters: of the query, not encoded; they keep their order and stand first.
            credentials: whose request it is.
            now_ms: when the token's time begins.
            expires_seconds: how long the token is valid.
        """
        timestamp = self._timestamp(now_ms // 1_000)
        scope = self._scope(timestamp)
        named = {
            **parameters,
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": f"{credentials.access_key}/{scope}",
            "X-Amz-Date": timestamp,
            "X-Amz-Expires": str(expires_seconds),
            "X-Amz-SignedHeaders": "host",
        }
        if credentials.token:
            named["X-Amz-Security-Token"] = credentials.token
        query = "&".join([f"{name}={percent_encode(value)}" for name, value in named.items()])
        host = authority.lower().removesuffix(_PORT_OF_HTTPS)
        canonical = f"GET\n/\n{_canonical_query(query)}\nhost:{host}\n\nhost\n{_NO_BODY}"
        digest = sha256(canonical.encode()).hexdigest()
        signature = self._signature(timestamp, scope, digest, credentials.secret_key)
        return f"{authority}/?{query}&X-Amz-Signature={signature}"

    def _scope(self, timestamp: str) -> str:
        return f"{timestamp[:8]}/{self._region}/{self._service}/aws4_request"

    def _signature(self, timestamp: str, scope: str, digest: str, secret_key: str) -> str:
        to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
        return _hmac(self._signing_key(secret_key, timestamp[:8]), to_sign).hex()

    def _timestamp(self, second: int) -> str:
        known, timestamp = self._second
        if second != known:
            timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._second = (second, timestamp)  # one assignment, as for the key below
        return timestamp

    def _signing_key(self, secret_key: str, day: str) -> bytes:
        kept_secret, kept_day, key = self._key
        if kept_day == day and kept_secret == secret_key:
            return key
        key = f"AWS4{secret_key}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = _hmac(key, part)
        # One assignment of a whole tuple, so that another thread sees the old key or the new one, never a mixture.
        self._key = (secret_key, day, key)
        return key


def percent_encode(text: str) -> str:
    """Encode a path segment or a query's value as AWS wants it: all but the unreserved characters, in upper case."""
    return _encode(text, _UNRESERVED)


def _canonical_path(path: str) -> str:
    # The path is sent encoded once; every service but S3 signs it encoded once more.
    return "/" if path == "/" else _encode(path, _UNRESERVED_AND_SLASH)


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = sorted(part.partition("=")[::2] for part in query.split("&"))
    return "&".join([f"{name}={value}" for name, value in pairs])


def _encode(text: str, unchanged: frozenset[int]) -> str:
    return "".join([chr(byte) if byte in unchanged else f"%{byte:02X}" for byte in text.encode()])


def _hmac(key: bytes, message: str) -> bytes:
    return hmac.digest(key, message.encode(), "sha256")
