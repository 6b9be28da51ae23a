"""A worker's request: for which database, for how long, and how long it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core import checks
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline

DEFAULT_LEASE_MS = 30_000
DEFAULT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """One request for a lease, every field checked.

    Attributes:
        database: the governed database.
        holder: the holder's name.
        timeout_ms: how long to wait for a connection; 0: one try.
        connections: how many.
        lease_ms: for how long; None: until the invocation's deadline, or `DEFAULT_LEASE_MS`.
        invocation: when Lambda stops the invocation, if the caller passed its context.
        stops_at_deadline: whether Lambda then also stops the code; on Managed Instances it keeps running.
    """

    database: str
    holder: str
    timeout_ms: int
    connections: int = 1
    lease_ms: int | None = None
    invocation: Deadline | None = None
    stops_at_deadline: bool = True

    @classmethod
    def of(
        cls,
        database: object,
        *,
        holder: object,
        timeout: object,
        connections: object = 1,
        lease_ms: object = None,
        invocation: Deadline | None = None,
        stops_at_deadline: bool = True,
    ) -> LeaseRequest:
        """Check a caller's arguments, and return them as a request.

        Raises:
            InvalidRequest: a value out of its bounds.
        """
        return cls(
            checks.database_name(database),
            checks.holder_name(holder),
            checks.timeout_ms(timeout),
            checks.connection_count(connections),
            None if lease_ms is None else checks.lease_length_ms(lease_ms),
            invocation,
            stops_at_deadline,
        )

    @property
    def may_freeze(self) -> bool:
        """Whether the holder may pause for long between its last clock read and its statement.

        Only Lambda's stop at the deadline rules that out.
        """
        return self.invocation is None or not self.stops_at_deadline

    def last_use_ms(self, clock: Clock) -> int:
        """Return until when the holder will use its lease: its length, or the invocation's deadline, or the default."""
        if self.lease_ms is None and self.invocation is not None:
            return self.invocation.wall_ms()
        return clock.now_ms() + (self.lease_ms or DEFAULT_LEASE_MS)

    def end_ms(self, clock: Clock, margin_ms: int) -> int:
        """Return its lease's expiry: after its length, or `margin_ms` past the deadline, or after the default."""
        past_deadline = self.lease_ms is None and self.invocation is not None
        return self.last_use_ms(clock) + (margin_ms if past_deadline else 0)
