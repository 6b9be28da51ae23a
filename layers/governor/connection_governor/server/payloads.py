"""The governor function's payloads: read a request, call one verb, shape the answer. No AWS here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core import checks
from connection_governor.core.codec import LEASE_FIELDS, TOO_FAST, lease_payload
from connection_governor.core.lease import Grant, Lease, Refusal, Wanted
from connection_governor.errors import GovernorError, GovernorUnavailable, InvalidRequest, UnknownDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.server.service import Service

Payload = dict[str, Any]

DELAY_ALLOWED_MS = 1_000  # the time that a request may be under way, beyond the allowance for clocks
ANONYMOUS = ""  # the published sample's payload names no holder; no holder with a name has this tag


class Requests:
    """Answers requests with a service.

    Args:
        service: carries the verbs out.
        clock: turns lengths into expiries.
        entropy: makes the ids that callers leave out.
    """

    def __init__(self, service: Service, clock: Clock, entropy: Entropy) -> None:
        self._service = service
        self._clock = clock
        self._entropy = entropy
        self._actions: Mapping[str, Callable[[Payload, Deadline | None], Payload]] = {
            "acquire": self._acquire,
            "renew": self._renew,
            "release": self._release,
            "status": self._status,
        }

    def answer(self, request: object, deadline: Deadline | None = None) -> Payload | bool:
        """Carry out one request; never raises for what a caller or an outage can cause.

        Args:
            request: the payload.
            deadline: no request to the store outlasts it.

        Returns:
            The action's answer, or `{"error": {"code", "message", "field"?}}`. For the published sample's payload
            (`incrementCounter`, `RDBMSName`) true or false; false on every failure too, since its workers take any
            other answer for a grant.
        """
        if isinstance(request, dict) and "incrementCounter" in request:
            try:
                return self._reference(request, deadline)
            except GovernorError:
                return False
        try:
            return self._act(request, deadline)
        except InvalidRequest as error:
            return _error("invalid_request", error.message, field=error.field)
        except UnknownDatabase as error:
            return _error("unknown_database", str(error))
        except GovernorUnavailable as error:
            return _error("unavailable", str(error))

    def _act(self, request: object, deadline: Deadline | None) -> Payload:
        if not isinstance(request, dict):
            raise InvalidRequest("request", "must be a JSON object")
        action = request.get("action")
        if not isinstance(action, str) or action not in self._actions:
            raise InvalidRequest("action", f"must be one of {', '.join(self._actions)}")
        return self._actions[action](request, deadline)

    def _acquire(self, request: Payload, deadline: Deadline | None) -> Payload:
        database = checks.database_name(request.get("database"))
        waiting = request.get("waiting")
        if waiting is not None and not isinstance(waiting, bool):
            raise InvalidRequest("waiting", "must be true or false")
        lease_id = request.get("lease_id")
        wanted = Wanted(
            database=database,
            lease_id=self._entropy.lease_id() if lease_id is None else checks.lease_id(lease_id),
            holder=checks.holder_name(request.get("holder", "unnamed")),
            connections=checks.connection_count(request.get("connections", 1)),
            expires_at_ms=self._end_ms(request, database, deadline),
            any_end=request.get("expires_at_ms") is None,
            wait_ms=checks.whole_number("wait_ms", request.get("wait_ms", 0), least=0, most=checks.MAX_LEASE_MS),
        )
        outcome = self._service.acquire(wanted, waiting=waiting, deadline=deadline)
        if isinstance(outcome, Refusal):
            return {"granted": False, **_refusal(outcome)}
        more: Payload = {"taken_over": list(outcome.lease.taken_over)} if outcome.lease.taken_over else {}
        if wanted.wait_ms:
            more["open_in_ms"] = outcome.open_in_ms
        flags = {"estimated": outcome.estimated, "pressure": outcome.pressure}
        return {"granted": True, "lease": lease_payload(outcome.lease), **_totals(outcome), **flags, **more}

    def _renew(self, request: Payload, deadline: Deadline | None) -> Payload:
        lease = lease_of(request.get("lease"))
        by_length = request.get("expires_at_ms") is None
        end_ms = self._end_ms(request, lease.database, deadline)
        renewal = self._service.renew(lease, expires_at_ms=end_ms, any_end=by_length, deadline=deadline)
        if renewal is None:
            return {"renewed": False, "reason": "not_held"}
        if isinstance(renewal, Refusal):
            return {"renewed": False, **_refusal(renewal)}
        return {"renewed": True, "lease": lease_payload(renewal.lease), "pressure": renewal.pressure}

    def _release(self, request: Payload, deadline: Deadline | None) -> Payload:
        if self._service.release(lease_of(request.get("lease")), deadline=deadline):
            return {"released": True}
        return {"released": False, "reason": "not_held"}

    def _status(self, request: Payload, deadline: Deadline | None) -> Payload:
        return self._service.status(checks.database_name(request.get("database")), deadline=deadline)

    def _reference(self, request: Payload, deadline: Deadline | None) -> bool:
        """Answer the published sample's payload: anonymous, so a release may end another worker's lease."""
        database = checks.database_name(request.get("RDBMSName"))
        increment = request["incrementCounter"]
        if not isinstance(increment, bool):
            raise InvalidRequest("incrementCounter", "must be true or false")
        if increment:
            return self._acquire_anonymous(database, deadline)
        return self._service.release_oldest(database, ANONYMOUS, deadline=deadline)

    def _acquire_anonymous(self, database: str, deadline: Deadline | None) -> bool:
        length_ms = self._service.default_lease_ms(database, anonymous=True, deadline=deadline)
        end_ms = self._clock.now_ms() + length_ms
        wanted = Wanted(database, self._entropy.lease_id(), ANONYMOUS, connections=1, expires_at_ms=end_ms)
        return isinstance(self._service.acquire(wanted, deadline=deadline), Grant)

    def _end_ms(self, request: Payload, database: str, deadline: Deadline | None) -> int:
        """Return the expiry asked for: `expires_at_ms` of the bundled client, `lease_ms` from now, or the default."""
        end_ms = request.get("expires_at_ms")
        if end_ms is not None:
            return self._checked_end_ms(request, self._service.agreed_skew_ms(database, deadline=deadline))
        length_ms = request.get("lease_ms")
        if length_ms is None:
            return self._clock.now_ms() + self._service.default_lease_ms(database, deadline=deadline)
        return self._clock.now_ms() + checks.lease_length_ms(length_ms)

    def _checked_end_ms(self, request: Payload, skew_ms: int) -> int:
        """Return an expiry that the caller's clock named, unless that clock is known to be wrong.

        A worker whose clock is behind names expiries that come too early: others would take its leases over.
        """
        now_ms, theirs_ms = self._clock.now_ms(), request.get("now_ms")
        if theirs_ms is not None:
            ahead_ms = checks.whole_number("now_ms", theirs_ms, least=0, most=checks.MAX_END_MS) - now_ms
            if abs(ahead_ms) > skew_ms + DELAY_ALLOWED_MS:
                where = "ahead of" if ahead_ms > 0 else "behind"
                raise InvalidRequest("now_ms", f"is {abs(ahead_ms)} ms {where} the governor's clock: set the caller's")
        most = now_ms + checks.MAX_LEASE_MS + checks.MAX_SKEW_MS
        return checks.whole_number("expires_at_ms", request.get("expires_at_ms"), least=now_ms - skew_ms, most=most)


def lease_of(payload: object) -> Lease:
    """Return the lease that a request carries, every field checked."""
    if not isinstance(payload, dict):
        raise InvalidRequest("lease", "must be the object that acquire answered")
    for name in LEASE_FIELDS:
        if name != "fence" and name not in payload:
            raise InvalidRequest(f"lease.{name}", "is missing")
    try:
        return _checked_lease(payload)
    except InvalidRequest as error:
        raise InvalidRequest(f"lease.{error.field}", error.message) from error


def _checked_lease(payload: Payload) -> Lease:
    return Lease(
        lease_id=checks.lease_id(payload["lease_id"]),
        database=checks.database_name(payload["database"]),
        holder=checks.holder_name(payload["holder"]),
        connections=checks.connection_count(payload["connections"]),
        fence=_checked_fence(payload.get("fence")),
        expires_at_ms=checks.whole_number("expires_at_ms", payload["expires_at_ms"], least=0, most=checks.MAX_END_MS),
        shard=checks.whole_number("shard", payload["shard"], least=0, most=checks.MAX_SHARDS - 1),
    )


def _checked_fence(fence: object) -> int | None:
    return None if fence is None else checks.whole_number("fence", fence, least=0, most=2**63)


def _refusal(refusal: Refusal) -> Payload:
    """Return a refusal; one for the opening rate is no reason to give up what is kept: that saves an opening."""
    reason = TOO_FAST if refusal.too_fast else "no_connections_left"
    why = {"reason": reason, "retry_after_ms": refusal.retry_after_ms}
    return {**why, **_totals(refusal), "pressure": not refusal.too_fast}


def _totals(outcome: Grant | Refusal) -> Payload:
    return {"allowed": outcome.allowed, "in_use": outcome.in_use, "remaining": outcome.remaining}


def _error(code: str, message: str, **field: str) -> Payload:
    return {"error": {"code": code, **field, "message": message}}
