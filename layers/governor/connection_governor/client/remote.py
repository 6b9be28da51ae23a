"""The `lambda` transport: the same verbs, sent to the governor function."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from connection_governor.core.codec import LEASE_FIELDS, TOO_FAST, lease_payload
from connection_governor.core.lease import Grant, Lease, Refusal, Renewal
from connection_governor.core.retry import ACQUIRING, RELEASING, Retry
from connection_governor.errors import GovernorUnavailable, InvalidRequest, UnknownDatabase

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Wanted
    from connection_governor.core.retry import RetryPolicy

Payload = dict[str, Any]

SLOW_MS = 1_000
_TIMES = ("now_ms", "expires_at_ms")
_TELLTALE = {"acquire": "granted", "renew": "renewed", "release": "released", "status": "allowed"}


class Invoke(Protocol):
    """Invokes the governor function; raises `GovernorUnavailable` if it cannot be reached."""

    def __call__(self, payload: bytes, deadline: Deadline | None = None, /) -> tuple[bytes, str | None]:
        """Return its answer's payload, and the kind of its function error if it failed."""


class RemoteGovernor:
    """The governor function as a transport.

    Args:
        invoke: sends one payload to the function.
        clock, entropy: for waiting between retries.
    """

    def __init__(self, invoke: Invoke, clock: Clock, entropy: Entropy) -> None:
        self._invoke = invoke
        self._clock = clock
        self._retry = Retry(clock, entropy)

    def acquire(
        self,
        wanted: Wanted,
        *,
        waiting: bool | None = None,
        last: bool | None = None,
        deadline: Deadline | None = None,
    ) -> Grant | Refusal:
        """See `Service.acquire`. Sends `expires_at_ms`, so that a retry asks for exactly the same record."""
        payload: Payload = {
            "action": "acquire",
            "database": wanted.database,
            "holder": wanted.holder,
            "lease_id": wanted.lease_id,
            "connections": wanted.connections,
            "expires_at_ms": wanted.expires_at_ms,
        }
        if waiting is not None:
            payload["waiting"] = waiting and not last  # the last try sees every shard, as the first does
        if wanted.wait_ms:
            payload["wait_ms"] = wanted.wait_ms
        answer = self._send(payload, ACQUIRING, deadline)
        if not answer["granted"]:
            return _refusal(answer)
        totals = {name: answer[name] for name in ("allowed", "in_use", "remaining", "estimated", "pressure")}
        taken_over = tuple(answer.get("taken_over", ()))
        return Grant(lease=_lease(answer, taken_over=taken_over), **totals, open_in_ms=answer.get("open_in_ms", 0))

    def renew(self, lease: Lease, *, expires_at_ms: int, deadline: Deadline | None = None) -> Renewal | Refusal | None:
        """See `Service.renew`."""
        payload = {"action": "renew", "lease": lease_payload(lease), "expires_at_ms": expires_at_ms}
        answer = self._send(payload, RELEASING, deadline)
        if answer["renewed"]:
            return Renewal(_lease(answer), answer["pressure"])
        return None if answer["reason"] == "not_held" else _refusal(answer)

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> bool:
        """See `Service.release`."""
        payload = {"action": "release", "lease": lease_payload(lease)}
        return bool(self._send(payload, RELEASING, deadline)["released"])

    def status(self, database: str, *, deadline: Deadline | None = None) -> Payload:
        """See `Service.status`."""
        return self._send({"action": "status", "database": database}, ACQUIRING, deadline)

    def _send(self, payload: Payload, policy: RetryPolicy, deadline: Deadline | None) -> Payload:
        return self._retry(lambda: self._once(payload, deadline), policy, deadline)

    def _once(self, payload: Payload, deadline: Deadline | None) -> Payload:
        """Send the payload, stamped with the time: the function refuses an expiry by a clock that is wrong."""
        sent_ms, began_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        stamped = payload | {"now_ms": sent_ms} if "expires_at_ms" in payload else payload
        answer, function_error = self._invoke(json.dumps(stamped, separators=(",", ":")).encode(), deadline)
        if function_error:
            raise GovernorUnavailable(f"the governor function failed ({function_error})")
        parsed = _parsed(answer)
        if error := parsed.get("error"):
            took_ms = max(self._clock.now_ms() - sent_ms, self._clock.monotonic_ms() - began_ms)
            raise _raised(error, payload, took_ms)
        if _TELLTALE[payload["action"]] not in parsed:
            raise GovernorUnavailable("the invoked function is not a governor function", retryable=False)
        return parsed


def _parsed(answer: bytes) -> Payload:
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise GovernorUnavailable("the governor function did not answer with a JSON object", retryable=False)
    return parsed


def _lease(answer: Payload, **more: Any) -> Lease:  # noqa: ANN401 - fields of a lease
    """Return the lease of an answer; fields that a newer function may add are left out."""
    return Lease(**{name: answer["lease"][name] for name in LEASE_FIELDS}, **more)


def _refusal(answer: Payload) -> Refusal:
    return Refusal(
        answer["retry_after_ms"],
        answer["allowed"],
        answer["in_use"],
        answer["remaining"],
        too_fast=answer["reason"] == TOO_FAST,
    )


def _raised(error: Payload, payload: Payload, took_ms: int) -> Exception:
    if error["code"] == "invalid_request":
        if error["field"] in _TIMES and took_ms > SLOW_MS:  # a cold start, or a freeze, and not a wrong clock
            return GovernorUnavailable(f"the request reached the governor function too late: {error['message']}")
        return InvalidRequest(error["field"], error["message"])
    if error["code"] == "unknown_database":
        return UnknownDatabase(payload.get("database") or payload["lease"]["database"])
    return GovernorUnavailable(error["message"], retryable=False)  # the function itself has retried already
