"""Credentials from the container's agent: ECS, EKS, and Lambda's SnapStart, whose snapshots outlive fixed ones."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connection_governor.aws.http1 import Address, Connection, request_bytes
from connection_governor.aws.sigv4 import AwsCredentials
from connection_governor.core.deadline import Deadline
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from connection_governor.core.clock import Clock

_AGENT = "http://169.254.170.2"
# Plain http carries the secret key: only to this machine, or to the link-local agents of ECS and EKS.
_PLAIN_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_AGENT_TIMEOUT_MS = 2_000
_REFRESH_BEFORE_MS = 300_000
_RETRY_AFTER_MS = 10_000
_OK = 200


class ContainerCredentials:
    """Temporary credentials from the container's agent (ECS, EKS, Lambda's SnapStart), renewed 5 minutes early.

    An agent that fails while the credentials are still valid is asked again ten seconds later, not at each request.
    """

    def __init__(self, environment: Mapping[str, str], clock: Clock | None = None) -> None:
        relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        url = f"{_AGENT}{relative}" if relative else environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        self._address = Address.of(url)
        if not self._address.tls and self._address.host not in _PLAIN_HOSTS:
            raise InvalidRequest(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{self._address.host!r} would get secrets over plain http"
            )
        self._token_file = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        self._token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
        self._clock: Clock = clock or SYSTEM_CLOCK
        self._lock = threading.Lock()
        self._credentials: AwsCredentials | None = None
        self._refresh_at_ms = 0
        self._refresh_by = Deadline.after(0, self._clock)
        self._expires_at_ms = 0

    def current(self) -> AwsCredentials:
        """Return the credentials of the agent's last answer, or new ones if these are about to end."""
        credentials = self._credentials
        if credentials is not None and not self._is_refresh_due():
            return credentials
        with self._lock:
            if self._credentials is None or self._is_refresh_due():
                self._credentials = self._renewed(self._clock.now_ms())
            return self._credentials

    def _is_refresh_due(self) -> bool:
        """Return whether it is due by either clock: one may have been set back, the other may stop in a freeze."""
        return self._clock.now_ms() >= self._refresh_at_ms or self._refresh_by.has_passed()

    def _refresh_in(self, length_ms: int, now_ms: int) -> None:
        self._refresh_at_ms = now_ms + length_ms
        self._refresh_by = Deadline.after(length_ms, self._clock)

    def _renewed(self, now_ms: int) -> AwsCredentials:
        try:
            answer = self._fetch()
            credentials = AwsCredentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer.get("Token"))
            expires_at_ms = _milliseconds(answer.get("Expiration"), now_ms)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if self._credentials is None or now_ms >= self._expires_at_ms:
                raise GovernorUnavailable(f"the container's agent gave no credentials: {error!r}") from error
            self._refresh_in(_RETRY_AFTER_MS, now_ms)
            return self._credentials
        self._expires_at_ms = expires_at_ms
        self._refresh_in(max(expires_at_ms - _REFRESH_BEFORE_MS - now_ms, _RETRY_AFTER_MS), now_ms)
        return credentials

    def _fetch(self) -> dict[str, Any]:
        """Ask the agent, on a connection of its own."""
        headers = {"host": self._address.authority, "accept": "application/json", "connection": "close"}
        # Read each time: the file's token is replaced while this process runs.
        token = Path(self._token_file).read_text(encoding="utf-8").strip() if self._token_file else self._token
        if token:
            headers["authorization"] = token
        deadline = Deadline.after(_AGENT_TIMEOUT_MS, self._clock)
        connection = Connection(self._address, deadline, self._tls_context())
        try:
            answer = connection.exchange(request_bytes("GET", self._address.path or "/", headers), deadline)
        finally:
            connection.close()
        if answer.status != _OK:
            raise ValueError(f"status {answer.status}")
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self._address.tls:
            return None
        from connection_governor.aws import tls  # noqa: PLC0415  # agents are on this machine, and speak plain http

        return tls.context(tls.SYSTEM)


def _milliseconds(expiration: str | None, now_ms: int) -> int:
    """Return an ISO 8601 time as milliseconds since the epoch; an hour from now if the agent names no end."""
    if expiration is None:
        return now_ms + 3_600_000
    return int(datetime.fromisoformat(expiration).timestamp() * 1000)
