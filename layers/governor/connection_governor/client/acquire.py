"""One environment's leases: acquire with waits, renew, release; remember refusals and pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from connection_governor.client.backoff import Wait
from connection_governor.core.deadline import RESERVE_MS, Deadline
from connection_governor.core.lease import Grant, Refusal, Wanted
from connection_governor.core.values import replace
from connection_governor.errors import (
    GovernorError,
    GovernorUnavailable,
    InvalidRequest,
    LeaseLost,
    NoConnectionsLeft,
    UnknownDatabase,
)
from connection_governor.metrics import gauges

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from connection_governor.client.lease_file import LeaseNotes
    from connection_governor.client.request import LeaseRequest
    from connection_governor.core.clock import Clock
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Lease, Renewal
    from connection_governor.metrics import Reporter

T = TypeVar("T")

PRESSURE_REMEMBERED_MS = 60_000
CLOCK_FIELDS = ("clock", "now_ms")  # what a refused clock is named: by this process, and by the function
LAST_TRY_MS = 100  # a wait that the invocation bounds ends early enough for one more try


class Transport(Protocol):
    """How the verbs reach the leases: `server.service.Service` in this process, or `client.remote.RemoteGovernor`.

    No request outlasts a verb's deadline.
    """

    def acquire(
        self,
        wanted: Wanted,
        *,
        waiting: bool | None = None,
        last: bool | None = None,
        deadline: Deadline | None = None,
    ) -> Grant | Refusal:
        """Grant a lease, or refuse."""

    def renew(self, lease: Lease, *, expires_at_ms: int, deadline: Deadline | None = None) -> Renewal | Refusal | None:
        """Move a lease's expiry; None if it is no longer held, a refusal if a lowered budget is overdrawn."""

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> bool:
        """Release a lease; return whether there was anything to release."""

    def status(self, database: str, *, deadline: Deadline | None = None) -> dict[str, Any]:
        """Return the leases and shards of a database."""


class LeaseClient:
    """Acquires, renews and releases for one environment.

    Args:
        transport: how the verbs reach the leases.
        clock, entropy: for waiting, and for the ids of leases.
        reporter: writes refusals to the log, as metrics.
        lease_file: tells the extension which leases are held.
        reserve_ms: how long before the invocation's deadline the last request must have ended.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        reporter: Reporter,
        lease_file: LeaseNotes,
        *,
        reserve_ms: int = RESERVE_MS,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._reporter = reporter
        self._lease_file = lease_file
        self._reserve_ms = reserve_ms
        self._pointless: dict[str, tuple[Deadline, int, Refusal]] = {}
        self._pressed: dict[str, Deadline] = {}

    def acquiring(self, request: LeaseRequest, end_ms: Callable[[], int]) -> Generator[float, None, Lease]:
        """Acquire a lease: yield how many seconds to wait before each further try, and return the lease.

        Args:
            request: what to acquire, and how long to wait for it.
            end_ms: returns the expiry to ask for, as of now: waiting takes time.

        Raises:
            NoConnectionsLeft: no connection came back in time, or too little of the invocation is left.
            As the transport's `acquire`.
        """
        began_ms = self._clock.monotonic_ms()
        limit = request.invocation.before(self._reserve_ms) if request.invocation else None
        if limit is not None and limit.has_passed():
            raise self._no_time_left(request)
        wait = Wait(self._entropy, self._wait_until(request, limit), request.timeout_ms)
        refusal = self._known_refusal(request)
        if refusal is not None:
            yield self._pause_s(request, wait, refusal, began_ms)
        while True:
            outcome = self._try_after(refusal, request, end_ms(), wait, limit)
            if isinstance(outcome, Refusal):
                refusal = outcome
                yield self._pause_s(request, wait, refusal, began_ms)
            elif outcome.lease.expires_at_ms > self._clock.now_ms() + outcome.open_in_ms:
                if outcome.open_in_ms:
                    yield from self._until_due(outcome, request)
                return outcome.lease
            else:
                self._too_late(outcome.lease, request, wait)

    def _until_due(self, grant: Grant, request: LeaseRequest) -> Generator[float, None, None]:
        """Wait until the lease's token is due: see `opening`. A caller that gives up releases the lease."""
        try:
            yield grant.open_in_ms / 1_000
        except BaseException:
            self.release_at_end(grant.lease, request.invocation)
            raise

    def acquire(self, request: LeaseRequest, end_ms: Callable[[], int]) -> Lease:
        """Acquire a lease, waiting in this thread."""
        return run(self.acquiring(request, end_ms), self._clock.sleep)

    def renew(self, lease: Lease, end_ms: int, invocation: Deadline | None = None) -> Lease:
        """Move the lease's expiry; no request outlasts the invocation.

        Raises:
            LeaseLost: it is no longer held, or has expired.
            NoConnectionsLeft: the budget was lowered below what is in use: the lease stays as it is until it expires.
            GovernorUnavailable: the governor could not be reached.
        """
        try:
            renewal = self._transport.renew(lease, expires_at_ms=end_ms, deadline=self._deadline(invocation))
        except InvalidRequest as error:
            self._report_wrong_clock(error, lease.database, lease.holder)
            raise
        if renewal is None:
            raise LeaseLost(f"lease {lease.lease_id} on {lease.database!r} is no longer held")
        if isinstance(renewal, Refusal):
            self._note_pressure(lease.database, pressure=True)
            raise _no_connections_left(lease.database, renewal)
        self._note_pressure(lease.database, pressure=renewal.pressure)
        self._lease_file.held(renewal.lease)
        return renewal.lease

    def release(self, lease: Lease, invocation: Deadline | None = None) -> bool:
        """Release the lease; return whether there was anything to release. Raises as the transport's `release`."""
        self._pointless.pop(lease.database, None)
        released = self._transport.release(lease, deadline=self._deadline(invocation))
        self._lease_file.gone(lease.lease_id)
        return released

    def release_at_end(self, lease: Lease, invocation: Deadline | None = None) -> None:
        """Release at the end of a body: an outage must not hide the body's own result; the lease then expires."""
        try:
            self.release(lease, invocation)
        except GovernorError as error:
            self.leave_to_expire(lease, str(error))

    def leave_to_expire(self, lease: Lease, reason: str) -> None:
        """Release nothing, and log it: an operator who looks for a missing slot finds why, and until when."""
        self._reporter.note(
            "lease left to expire",
            lease_id=lease.lease_id,
            database=lease.database,
            holder=lease.holder,
            expires_at_ms=lease.expires_at_ms,
            reason=reason,
        )

    def status(self, database: str, invocation: Deadline | None = None) -> dict[str, Any]:
        """Return the leases and shards of a database. Raises as the transport's `status`."""
        return self._transport.status(database, deadline=self._deadline(invocation))

    def is_pressed(self, database: str) -> bool:
        """Return whether an answer of the last minute said that the budget runs low."""
        until = self._pressed.get(database)
        return until is not None and not until.has_passed()

    def _deadline(self, invocation: Deadline | None) -> Deadline | None:
        return invocation.for_release(self._reserve_ms) if invocation else None

    def _wait_until(self, request: LeaseRequest, limit: Deadline | None) -> Deadline:
        """Return when the wait for a connection ends: its time-out, or early enough for one more try."""
        if limit is None:
            return Deadline.after(request.timeout_ms, self._clock)
        return limit.before(LAST_TRY_MS).within(request.timeout_ms)

    def _pause_s(self, request: LeaseRequest, wait: Wait, refusal: Refusal, began_ms: int) -> float:
        """Return how long to wait after a refusal; raise it if the wait has ended."""
        pause_s = wait.pause_s(refusal.retry_after_ms, too_fast=refusal.too_fast)
        if pause_s is None:
            raise self._refused(request, refusal, began_ms)
        return pause_s

    def _try_after(
        self, refusal: Refusal | None, request: LeaseRequest, end_ms: int, wait: Wait, limit: Deadline | None
    ) -> Grant | Refusal:
        """Try once more. If the time runs out meanwhile, the earlier refusal counts: a full budget, no outage."""
        try:
            return self._try(request, end_ms, wait, limit)
        except GovernorUnavailable:
            if refusal is None or limit is None or not limit.has_passed():
                raise
            wait.is_last = True
            return refusal

    def _try(self, request: LeaseRequest, end_ms: int, wait: Wait, limit: Deadline | None) -> Grant | Refusal:
        wanted = Wanted(
            request.database,
            self._entropy.lease_id(),
            request.holder,
            request.connections,
            end_ms,
            wait_ms=wait.left_ms,
        )
        self._lease_file.wanted(wanted)
        try:
            outcome = self._transport.acquire(wanted, waiting=wait.looks_first, last=wait.is_last, deadline=limit)
        except (InvalidRequest, UnknownDatabase) as error:
            self._lease_file.gone(wanted.lease_id)  # after an outage, by contrast, it may have been granted
            self._report_wrong_clock(error, request.database, request.holder)
            raise
        if isinstance(outcome, Grant):
            self._lease_file.held(outcome.lease)
            self._pointless.pop(request.database, None)
            self._note_pressure(request.database, pressure=outcome.pressure)
        else:
            self._lease_file.gone(wanted.lease_id)
            self._note_pressure(request.database, pressure=not outcome.too_fast)
        return outcome

    def _too_late(self, lease: Lease, request: LeaseRequest, wait: Wait) -> None:
        """Release a lease whose answer came after its expiry, as after a freeze; raise if no time is left."""
        self.release_at_end(lease, request.invocation)
        if wait.until.has_passed():
            raise GovernorUnavailable("the governor's answer came after the lease's expiry")

    def _report_wrong_clock(self, error: GovernorError, database: str, holder: str) -> None:
        """Count a machine whose clock was refused: the operator sees it in a metric, not only this worker's author."""
        if isinstance(error, InvalidRequest) and error.field in CLOCK_FIELDS:
            self._reporter.wrong_clock(database, str(error), now_ms=self._clock.now_ms(), holder=holder)

    def _note_pressure(self, database: str, *, pressure: bool) -> None:
        if pressure:
            self._pressed[database] = Deadline.after(PRESSURE_REMEMBERED_MS, self._clock)

    def _refused(self, request: LeaseRequest, refusal: Refusal, began_ms: int) -> NoConnectionsLeft:
        until = Deadline.after(refusal.retry_after_ms, self._clock)
        self._pointless[request.database] = (until, request.connections, refusal)
        values = gauges(allowed=refusal.allowed, in_use=refusal.in_use, exact=not refusal.estimated)
        self._reporter.refused(
            request.database,
            values,
            took_ms=self._clock.monotonic_ms() - began_ms,
            now_ms=self._clock.now_ms(),
            too_fast=refusal.too_fast,
            holder=request.holder,
            retry_after_ms=refusal.retry_after_ms,
        )
        return _no_connections_left(request.database, refusal)

    def _known_refusal(self, request: LeaseRequest) -> Refusal | None:
        """Return the last refusal of as few connections while a try is pointless: memory may refuse, never admit."""
        known = self._pointless.get(request.database)
        if known is None:
            return None
        until, connections, refusal = known
        left_ms = until.left_ms()
        if refusal.too_fast and request.timeout_ms >= left_ms:
            return None  # a try can now get a token that is due within the wait
        return replace(refusal, retry_after_ms=left_ms) if left_ms > 0 and request.connections >= connections else None

    def _no_time_left(self, request: LeaseRequest) -> NoConnectionsLeft:
        """Refuse without a request: the handler would have no time to use a lease."""
        why = f"no time left to acquire a connection: less than {self._reserve_ms} ms before the invocation's deadline"
        self._reporter.refused(
            request.database, {}, took_ms=0, now_ms=self._clock.now_ms(), holder=request.holder, reason=why
        )
        return NoConnectionsLeft(request.database, retry_after_ms=0, allowed=0, in_use=0, reason=why)


def run(steps: Generator[float, None, T], sleep: Callable[[float], None]) -> T:
    """Run steps that yield the seconds to wait between them; return their result."""
    while True:
        try:
            sleep(next(steps))
        except StopIteration as done:
            returned: T = done.value
            return returned
        except BaseException:
            steps.close()  # a caller interrupted while it waits for its token releases its lease
            raise


def _no_connections_left(database: str, refusal: Refusal) -> NoConnectionsLeft:
    return NoConnectionsLeft(
        database,
        retry_after_ms=refusal.retry_after_ms,
        allowed=refusal.allowed,
        in_use=refusal.in_use,
        too_fast=refusal.too_fast,
    )
