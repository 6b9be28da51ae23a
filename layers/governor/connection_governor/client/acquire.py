"""One environment's leases: asks for them, waits and asks again, gives them back; remembers refusals and pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from connection_governor.client.backoff import Wait
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

    from connection_governor.client.lease_file import Notes
    from connection_governor.client.request import Ask
    from connection_governor.core.clock import Clock
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Lease, Renewal
    from connection_governor.metrics import Reporter

T = TypeVar("T")

PRESSURE_REMEMBERED_MS = 60_000


class Transport(Protocol):
    """How the verbs reach the leases: `service.Service` in this process, or `remote.RemoteGovernor`."""

    def acquire(self, wanted: Wanted, *, waiting: bool | None = None, until_ms: int | None = None) -> Grant | Refusal:
        """Lend connections, or say that none is left."""

    def renew(self, lease: Lease, *, expires_at_ms: int) -> Renewal | Refusal | None:
        """Move a lease's end; None where it is not held any more, a refusal where a lowered budget is overdrawn."""

    def release(self, lease: Lease) -> bool:
        """Give a lease back; whether there was anything to give back."""

    def status(self, database: str) -> dict[str, Any]:
        """Who holds what."""


class Borrower:
    """Borrows for one environment.

    Args:
        transport: how the verbs reach the leases.
        clock, entropy: for waiting, and for the ids of leases.
        reporter: writes refusals to the log, as metrics.
        notes: tells the extension what is held.
    """

    def __init__(self, transport: Transport, clock: Clock, entropy: Entropy, reporter: Reporter, notes: Notes) -> None:
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._reporter = reporter
        self._notes = notes
        self._pointless: dict[str, tuple[int, int, Refusal]] = {}
        self._pressed_until_ms: dict[str, int] = {}

    def acquiring(self, ask: Ask, end_ms: Callable[[], int]) -> Generator[float, None, Lease]:
        """Get a lease: yields how many seconds to wait before each further try, and returns the lease.

        Args:
            ask: for what, and how long to wait for it.
            end_ms: the end to ask for, as of now: waiting takes time.

        Raises:
            NoConnectionsLeft: nothing came back in time.
            As the transport's `acquire`.
        """
        started_ms = self._clock.now_ms()
        wait = Wait(self._clock, self._entropy, give_up_ms=ask.give_up_ms(self._clock))
        outcome: Grant | Refusal | None = self._known_refusal(ask)
        while True:
            if outcome is None:
                outcome = self._try(ask, end_ms(), wait)
            if isinstance(outcome, Grant):
                if outcome.lease.expires_at_ms > self._clock.now_ms():
                    return outcome.lease
                self._too_late(outcome.lease, wait)
                outcome = None
                continue
            pause_s = wait.pause_s(outcome.retry_after_ms)
            if pause_s is None:
                raise self._refused(ask, outcome, started_ms)
            yield pause_s
            outcome = None

    def acquire(self, ask: Ask, end_ms: Callable[[], int]) -> Lease:
        """The same, waiting in this thread."""
        return run(self.acquiring(ask, end_ms), self._clock.sleep)

    def renew(self, lease: Lease, end_ms: int) -> Lease:
        """Move the lease's end.

        Raises:
            LeaseLost: it is not held any more, or past its end.
            NoConnectionsLeft: the budget was lowered below what is lent: the lease stays as it is until its end.
            GovernorUnavailable: the governor could not be reached.
        """
        renewal = self._transport.renew(lease, expires_at_ms=end_ms)
        if renewal is None:
            raise LeaseLost(f"lease {lease.lease_id} on {lease.database!r} is not held any more")
        if isinstance(renewal, Refusal):
            self._note_pressure(lease.database, pressure=True)
            raise _no_connections_left(lease.database, renewal)
        self._note_pressure(lease.database, pressure=renewal.pressure)
        self._notes.held(renewal.lease)
        return renewal.lease

    def release(self, lease: Lease) -> bool:
        """Give the lease back; whether there was anything to give back. Raises as the transport's `release`."""
        self._pointless.pop(lease.database, None)
        released = self._transport.release(lease)
        self._notes.gone(lease.lease_id)
        return released

    def give_back(self, lease: Lease) -> None:
        """Release at the end of a body: an outage must not hide the body's own result; the lease ends by itself."""
        try:
            self.release(lease)
        except GovernorError as error:
            self.leave_to_expire(lease, str(error))

    def leave_to_expire(self, lease: Lease, reason: str) -> None:
        """Give nothing back, and say so in the log: whoever looks for a missing slot finds why, and until when."""
        self._reporter.note(
            "lease left to expire",
            lease_id=lease.lease_id,
            database=lease.database,
            holder=lease.holder,
            expires_at_ms=lease.expires_at_ms,
            reason=reason,
        )

    def status(self, database: str) -> dict[str, Any]:
        """Who holds what. Raises as the transport's `status`."""
        return self._transport.status(database)

    def is_pressed(self, database: str) -> bool:
        """Whether an answer of the last minute said that the budget runs low."""
        return self._clock.now_ms() < self._pressed_until_ms.get(database, 0)

    def _try(self, ask: Ask, end_ms: int, wait: Wait) -> Grant | Refusal:
        wanted = Wanted(ask.database, self._entropy.lease_id(), ask.holder, ask.connections, end_ms)
        self._notes.wanted(wanted)
        try:
            outcome = self._transport.acquire(wanted, waiting=wait.looks_first, until_ms=wait.give_up_ms)
        except (InvalidRequest, UnknownDatabase):
            self._notes.gone(wanted.lease_id)  # whereas after an outage it may have been lent
            raise
        if isinstance(outcome, Grant):
            self._notes.held(outcome.lease)
            self._pointless.pop(ask.database, None)
            self._note_pressure(ask.database, pressure=outcome.pressure)
        else:
            self._notes.gone(wanted.lease_id)
            self._note_pressure(ask.database, pressure=True)
        return outcome

    def _too_late(self, lease: Lease, wait: Wait) -> None:
        """The answer came after the lease's end, as after a freeze: give it back; another try if there is time."""
        self.give_back(lease)
        if self._clock.now_ms() >= wait.give_up_ms:
            raise GovernorUnavailable("the governor's answer came after the lease's end")

    def _note_pressure(self, database: str, *, pressure: bool) -> None:
        if pressure:
            self._pressed_until_ms[database] = self._clock.now_ms() + PRESSURE_REMEMBERED_MS

    def _refused(self, ask: Ask, refusal: Refusal, started_ms: int) -> NoConnectionsLeft:
        now_ms = self._clock.now_ms()
        self._pointless[ask.database] = (now_ms + refusal.retry_after_ms, ask.connections, refusal)
        values = gauges(allowed=refusal.allowed, in_use=refusal.in_use, exact=not refusal.estimated)
        self._reporter.refused(
            ask.database,
            values,
            took_ms=now_ms - started_ms,
            now_ms=now_ms,
            holder=ask.holder,
            retry_after_ms=refusal.retry_after_ms,
        )
        return _no_connections_left(ask.database, refusal)

    def _known_refusal(self, ask: Ask) -> Refusal | None:
        """The last refusal of as few connections, while a try is pointless: memory may refuse, never admit."""
        until_ms, connections, refusal = self._pointless.get(ask.database, (0, 0, None))
        left_ms = until_ms - self._clock.now_ms()
        if refusal is None or left_ms <= 0 or ask.connections < connections:
            return None
        return replace(refusal, retry_after_ms=left_ms)


def run(steps: Generator[float, None, T], sleep: Callable[[float], None]) -> T:
    """Run steps that yield the seconds to wait between them; return what they return."""
    while True:
        try:
            sleep(next(steps))
        except StopIteration as done:
            returned: T = done.value
            return returned


def _no_connections_left(database: str, refusal: Refusal) -> NoConnectionsLeft:
    return NoConnectionsLeft(
        database, retry_after_ms=refusal.retry_after_ms, allowed=refusal.allowed, in_use=refusal.in_use
    )
