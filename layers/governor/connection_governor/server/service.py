"""The governor's verbs with their metrics: for the function, and as the `direct` transport in-process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core.lease import Grant
from connection_governor.metrics import gauges

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.engine import Engine
    from connection_governor.core.lease import Lease, Refusal, Renewal, Wanted
    from connection_governor.core.operations import Operations
    from connection_governor.core.store import Written
    from connection_governor.metrics import Reporter


class Service:
    """One database table's governor.

    Args:
        engine: grants, renews and releases.
        operations: makes what reads a whole database; few workers ever do.
        reporter: writes the metrics.
        clock: stamps and times them.
    """

    def __init__(self, engine: Engine, operations: Callable[[], Operations], reporter: Reporter, clock: Clock) -> None:
        self._engine = engine
        self._operations = operations
        self._reporter = reporter
        self._clock = clock

    def default_lease_ms(self, database: str, *, anonymous: bool = False, deadline: Deadline | None = None) -> int:
        """Return how long a lease of this database lasts if the caller names no length."""
        settings = self._engine.settings(database, deadline=deadline)
        return settings.anonymous_lease_ms if anonymous else settings.lease_ms

    def agreed_skew_ms(self, database: str, *, deadline: Deadline | None = None) -> int:
        """Return the database's allowance for clocks. Raises as `Engine.settings`."""
        return self._engine.agreed_skew_ms(database, deadline=deadline)

    def acquire(
        self,
        wanted: Wanted,
        *,
        waiting: bool | None = None,
        last: bool | None = None,
        deadline: Deadline | None = None,
    ) -> Grant | Refusal:
        """Grant a lease, or refuse.

        Args:
            wanted: the lease asked for.
            waiting: None: a call of its own, whose refusal is counted here. Else the caller tries repeatedly and counts
                its own refusal: False at its first try (write at once), True at later ones (read before writing).
            last: whether the caller's wait ends with this call; None: the caller is not in this process.
            deadline: no request outlasts it.

        Raises:
            As `Engine.acquire`.
        """
        started_ms = self._clock.now_ms()
        outcome = self._engine.acquire(wanted, look_first=bool(waiting), last=last, deadline=deadline)
        now_ms = self._clock.now_ms()
        values = gauges(allowed=outcome.allowed, in_use=outcome.in_use, exact=not outcome.estimated)
        if isinstance(outcome, Grant):
            details = {"holder": wanted.holder, "lease_id": wanted.lease_id, "fence": outcome.lease.fence}
            if outcome.expired:
                values["LeasesExpired"] = outcome.expired
            self._reporter.granted(wanted.database, values, took_ms=now_ms - started_ms, now_ms=now_ms, **details)
        elif waiting is None:
            details = {"holder": wanted.holder, "retry_after_ms": outcome.retry_after_ms}
            self._reporter.refused(
                wanted.database,
                values,
                took_ms=now_ms - started_ms,
                now_ms=now_ms,
                too_fast=outcome.too_fast,
                **details,
            )
        return outcome

    def renew(
        self, lease: Lease, *, expires_at_ms: int, any_end: bool = False, deadline: Deadline | None = None
    ) -> Renewal | Refusal | None:
        """Move a lease's end. Answers and raises as `Engine.renew`."""
        return self._engine.renew(lease, expires_at_ms=expires_at_ms, any_end=any_end, deadline=deadline)

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> bool:
        """Release a lease; return whether there was anything to release. Raises as `Engine.release`."""
        counter = self._engine.release(lease, deadline=deadline)
        if counter is not None:
            self._report_release(lease, counter)
        return counter is not None

    def release_oldest(self, database: str, holder: str, *, deadline: Deadline | None = None) -> bool:
        """Release the lease of this holder that ends first; return whether there was one.

        One call releases one lease at most: a release that may have been applied ends the call, also if a repeated try
        finds the lease gone.

        Raises:
            As `Operations.status` and `Engine.release`.
        """
        held = self._operations().status(database, deadline=deadline).leases()
        own = [lease for lease in held if lease.holder == holder]
        released = self._engine.release_first(own, deadline=deadline)
        if released is None:
            return False
        lease, counter = released
        if counter is not None:
            self._report_release(lease, counter)
        return True

    def _report_release(self, lease: Lease, counter: Written) -> None:
        settings = self._engine.known_settings(lease.database)  # for a metric only: no request for it, and no failure
        exact = settings is not None and settings.shards == 1
        values = gauges(allowed=counter.allowed, in_use=counter.allowed - counter.remaining, exact=exact)
        details = {"holder": lease.holder, "lease_id": lease.lease_id}
        self._reporter.released(lease.database, values, now_ms=self._clock.now_ms(), **details)

    def status(self, database: str, *, deadline: Deadline | None = None) -> dict[str, Any]:
        """Return the leases and shards, exact as of the read, in the contract's form. Raises as `Operations.status`."""
        from connection_governor.core.status import status_report  # noqa: PLC0415 - most workers never ask

        return status_report(self._operations().status(database, deadline=deadline))
