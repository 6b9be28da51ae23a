"""The lean client of AWS's JSON services: sign, send over one kept connection, name the failure.

Every call is tried ONCE; the caller decides about retries. Two faults are corrected here, because only here do they
differ from an outage: a kept connection that the server closed while the environment was frozen, and a wrong signing
clock. Both repeat the request, once: every request sent through here must be idempotent.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from connection_governor.aws.endpoints import endpoint_url
from connection_governor.aws.http1 import Address, Answer, Connection, NoAnswerError, head_bytes
from connection_governor.aws.server_date import date_ms
from connection_governor.aws.sigv4 import CanonicalRequest, Signer, percent_encode
from connection_governor.core.deadline import Deadline
from connection_governor.errors import GovernorUnavailable
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from connection_governor.aws.credentials import CredentialSource
    from connection_governor.core.clock import Clock

_THROTTLED: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
# The codes that refuse a signature for its time. Most also stand for a wrong key, so the clocks decide.
_PERHAPS_SKEWED: Final = frozenset(
    {
        "AuthFailure",
        "InvalidSignatureException",
        "RequestExpired",
        "RequestInTheFuture",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
# Signatures are accepted within five minutes of the server's time, and a Date header is exact to a second.
_SKEW_WORTH_CORRECTING_MS: Final = 60_000
_DATE_RESOLUTION_MS: Final = 1_000
# NAT gateways and network load balancers drop a flow after 350 s, some silently: do not wait to find out.
_LONGEST_IDLE_MS: Final = 300_000
_MOST_IDLE: Final = 4
_MOST_CANONICAL: Final = 16
_OK, _TOO_MANY_REQUESTS, _SERVER_FAULT = 200, 429, 500
# Made once: `json.dumps` with separators makes an encoder for each call. Payloads are built here: none contains itself.
_as_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_from_json = json.JSONDecoder().decode


class ServiceError(Exception):
    """The service refused the request (4xx): `code` as the service names it, "" if it names none.

    `perhaps_applied`: the request had been sent before on a connection that closed, and may have been applied then.
    """

    def __init__(
        self, code: str, status: int, message: str, body: dict[str, Any], *, perhaps_applied: bool = False
    ) -> None:
        # The first line only: then a refused signature's message has the request's headers, session token included.
        super().__init__(f"{code or 'no code'} ({status}): {message.partition(chr(10))[0]}")
        self.code = code
        self.status = status
        self.message = message
        self.body = body
        self.perhaps_applied = perhaps_applied


class Endpoint:
    """One service of one region, reached over a kept connection (TLS, or plain for emulators).

    Safe to share among threads: each exchange has a connection to itself, and up to four are kept. The times are in
    seconds; a call's deadline can only shorten them. `ca_file` names the only authorities to trust (default: Amazon's,
    then the system's).

    Attributes:
        clock_error_ms: by how much this machine's clock is certainly ahead of the service's, as its last answer showed;
            negative: behind.
    """

    def __init__(  # most have a default
        self,
        service: str,
        region: str,
        credentials: CredentialSource,
        *,
        url: str | None = None,
        clock: Clock | None = None,
        connect_timeout_s: float = 1.0,
        read_timeout_s: float = 2.0,
        ca_file: str | None = None,
    ) -> None:
        self.name = f"{service} in {region}"
        self._address = Address.of(url or endpoint_url(service, region, {}))
        self._prefix = self._address.path.rstrip("/")
        self._signer = Signer(service, region)
        self._credentials = credentials
        self._clock: Clock = clock or SYSTEM_CLOCK
        self._connect_timeout_ms = round(connect_timeout_s * 1_000)
        self._read_timeout_ms = round(read_timeout_s * 1_000)
        self._ca_file = ca_file
        self._skew_ms = 0
        self._date = ("", 0)
        self.clock_error_ms = 0
        self._canonical: dict[object, tuple[CanonicalRequest, bytes]] = {}
        # Taken from and put back at the end: append and pop of a list are atomic, so no lock is needed.
        self._idle: list[tuple[int, int, Connection]] = []

    def post(
        self, path: str, headers: Mapping[str, str], body: bytes, deadline: Deadline | None = None
    ) -> tuple[Answer, bool]:
        """Sign and send; return the answer, of any status, and whether the request was sent before.

        Raises:
            GovernorUnavailable: no answer in time.
        """
        timeout_ms = self._connect_timeout_ms + self._read_timeout_ms
        limit = deadline.within(timeout_ms) if deadline else Deadline.after(timeout_ms, self._clock)
        request = self._signed(self._prefix + path, headers, body)
        sent_ms = self._clock.now_ms()
        try:
            answer, sent_before = self._send(request, limit, sent_ms)
        except TimeoutError as error:
            if deadline is not None and deadline.has_passed():
                raise GovernorUnavailable(f"{self.name} did not answer before the deadline", retryable=False) from error
            raise GovernorUnavailable(f"{self.name} did not answer in time") from error
        except OSError as error:
            raise GovernorUnavailable(f"{self.name} cannot be reached: {error}") from error
        self._compare_clocks(answer, sent_ms)
        return answer, sent_before

    def correct_clock(self, answer: Answer) -> bool:
        """Sign by the server's clock from now on; return whether that changes anything. Leases never use it."""
        server_ms = self._server_ms(answer)
        if server_ms is None:
            return False
        skew_ms = server_ms - self._clock.now_ms()
        changed = abs(skew_ms - self._skew_ms) > _SKEW_WORTH_CORRECTING_MS
        if changed:
            self._skew_ms = skew_ms
        return changed

    def _compare_clocks(self, answer: Answer, sent_ms: int) -> None:
        """Note by how much this machine's clock is certainly ahead of the service's, or behind it (negative).

        The service wrote its `Date` between sending and receiving, without the fraction of a second.
        So neither a slow answer nor a freeze looks like a wrong clock.
        """
        server_ms = self._server_ms(answer)
        if server_ms is not None:
            ahead_ms = sent_ms - (server_ms + _DATE_RESOLUTION_MS)
            behind_ms = server_ms - self._clock.now_ms()
            self.clock_error_ms = max(ahead_ms, 0) - max(behind_ms, 0)

    def _server_ms(self, answer: Answer) -> int | None:
        header = answer.headers.get("date", "")
        known, server_ms = self._date
        if header == known and header:
            return server_ms
        found = date_ms(header)
        if found is not None:
            self._date = (header, found)
        return found

    def close(self) -> None:
        """Close the kept connections; the endpoint can still be used."""
        with suppress(IndexError):  # empty, perhaps because another thread took the last one
            while True:
                self._idle.pop()[2].close()

    def _signed(self, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        credentials = self._credentials.current()
        canonical, head = self._canonical_request(target, headers, credentials.token)
        now_ms = self._clock.now_ms() + self._skew_ms
        timestamp, authorization = self._signer.authorize(canonical, body, credentials, now_ms)
        changing = f"x-amz-date: {timestamp}\r\nauthorization: {authorization}\r\ncontent-length: {len(body)}\r\n\r\n"
        return b"".join((head, changing.encode("latin-1"), body))

    def _canonical_request(
        self, target: str, headers: Mapping[str, str], token: str | None
    ) -> tuple[CanonicalRequest, bytes]:
        """Return the parts that requests share, made once: they are a third of the cost of signing."""
        key = (target, *headers.items(), token)
        known = self._canonical.get(key)
        if known is None:
            canonical = CanonicalRequest("POST", target, {"host": self._address.authority, **headers}, token)
            known = (canonical, head_bytes("POST", target, canonical.headers))
            if len(self._canonical) >= _MOST_CANONICAL:  # credentials have changed repeatedly
                self._canonical.clear()
            self._canonical[key] = known
        return known

    def _send(self, request: bytes, deadline: Deadline, sent_ms: int) -> tuple[Answer, bool]:
        process = os.getpid()
        kept = self._kept(sent_ms, process)
        if kept is not None:
            try:
                return self._exchange(kept, request, deadline, sent_ms, process), False
            except NoAnswerError:
                # Closed by the server during the write. The other kept connections are as old: open a new one.
                self.close()
        opened = self._opened(deadline)
        return self._exchange(opened, request, deadline, sent_ms, process), kept is not None

    def _exchange(
        self, connection: Connection, request: bytes, deadline: Deadline, sent_ms: int, process: int
    ) -> Answer:
        try:
            return connection.exchange(request, deadline.within(self._read_timeout_ms))
        finally:
            if connection.reusable and len(self._idle) < _MOST_IDLE:
                # It has rested since the answer, which is later: so it is given up a little early, never late.
                self._idle.append((sent_ms, process, connection))
            else:
                connection.close()

    def _kept(self, now_ms: int, this_process: int) -> Connection | None:
        """Take the connection used last, if it can still be used; close those that cannot."""
        while self._idle:
            try:
                used_ms, process, connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            rested_ms = now_ms - used_ms
            # A forked child shares its parent's sockets: two processes writing to one would garble both.
            if 0 <= rested_ms <= _LONGEST_IDLE_MS and process == this_process and not connection.is_stale():
                return connection
            connection.close()
        return None

    def _opened(self, deadline: Deadline) -> Connection:
        if not self._address.tls:
            return self._connected(deadline, None)
        from connection_governor.aws import tls  # noqa: PLC0415  # plain-http emulators need not load TLS

        if self._ca_file is None:
            try:
                return self._connected(deadline, tls.context(tls.AMAZON_ROOTS))
            except tls.NotTrustedError:
                self._ca_file = tls.SYSTEM
        return self._connected(deadline, tls.context(self._ca_file))

    def _connected(self, deadline: Deadline, tls_context: ssl.SSLContext | None) -> Connection:
        return Connection(self._address, deadline.within(self._connect_timeout_ms), tls_context)


def json_call(
    endpoint: Endpoint,
    target: str,
    payload: Mapping[str, Any],
    content_type: str = "application/x-amz-json-1.0",
    deadline: Deadline | None = None,
) -> dict[str, Any]:
    """Call an operation such as "DynamoDB_20120810.UpdateItem"; Secrets Manager speaks "application/x-amz-json-1.1".

    Raises `ServiceError` if the service refuses; `GovernorUnavailable` if it is throttling, at fault or out of reach.
    """
    headers = {"content-type": content_type, "x-amz-target": target}
    answer = _call(endpoint, "/", headers, _as_json(payload).encode(), deadline)
    try:
        result = _from_json(answer.body.decode())
    except ValueError as error:
        raise GovernorUnavailable(f"{endpoint.name} did not answer in JSON") from error
    if not isinstance(result, dict):
        raise GovernorUnavailable(f"{endpoint.name} did not answer with a JSON object")
    return result


def invoke(
    endpoint: Endpoint, function_name: str, payload: bytes, deadline: Deadline | None = None
) -> tuple[bytes, str | None]:
    """Invoke a Lambda function (name or ARN, with an alias if wanted); return its payload, and its error's kind if any.

    Raises as `json_call` does. The error's kind is Lambda's `X-Amz-Function-Error`; the payload then describes it.
    """
    path = f"/2015-03-31/functions/{percent_encode(function_name)}/invocations"
    headers = {"content-type": "application/json", "x-amz-invocation-type": "RequestResponse"}
    answer = _call(endpoint, path, headers, payload, deadline)
    return answer.body, answer.headers.get("x-amz-function-error")


def _call(endpoint: Endpoint, path: str, headers: Mapping[str, str], body: bytes, deadline: Deadline | None) -> Answer:
    answer, sent_before = endpoint.post(path, headers, body, deadline)
    if answer.status == _OK:
        return answer
    failure = _failure(endpoint, answer, perhaps_applied=sent_before)
    if isinstance(failure, ServiceError) and failure.code in _PERHAPS_SKEWED and endpoint.correct_clock(answer):
        answer, sent_again = endpoint.post(path, headers, body, deadline)
        if answer.status == _OK:
            return answer
        failure = _failure(endpoint, answer, perhaps_applied=sent_before or sent_again)
    raise failure


def _failure(endpoint: Endpoint, answer: Answer, *, perhaps_applied: bool) -> ServiceError | GovernorUnavailable:
    """Return the error of an answer other than 200, by its code and status, never by its message.

    `throttled` promises that nothing was applied. This answer cannot promise that for an earlier sending whose answer
    was lost, so after one it is an outage like any other.
    """
    body = _object(answer.body)
    code = _code(answer, body)
    if answer.status == _TOO_MANY_REQUESTS or code in _THROTTLED:
        reason = f"{endpoint.name} is throttling: {code or answer.status}"
        return GovernorUnavailable(reason, throttled=not perhaps_applied)
    if answer.status >= _SERVER_FAULT:
        return GovernorUnavailable(f"{endpoint.name} is at fault: {code or answer.status}")
    message = str(body.get("message") or body.get("Message") or "")
    return ServiceError(code, answer.status, message, body, perhaps_applied=perhaps_applied)


def _code(answer: Answer, body: Mapping[str, Any]) -> str:
    """Reduce "com.amazonaws.dynamodb.v20120810#Code" or "Code:http://internal…/" to "Code"."""
    code = answer.headers.get("x-amzn-errortype") or body.get("__type") or body.get("code") or ""
    return str(code).rpartition("#")[2].partition(":")[0]


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body.decode())
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
