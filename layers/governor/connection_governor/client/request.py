"""What a worker asks for: whose connections, for how long, and until when it waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core import checks
from connection_governor.core.deadline import deadline_ms
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import InvocationContext

DEFAULT_LEASE_MS = 30_000
DEFAULT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a lease, every field checked.

    Attributes:
        database: whose connections.
        holder: who wants them.
        timeout_ms: how long to wait for them; 0: one try.
        connections: how many.
        lease_ms: for how long; None: until the invocation's deadline, or `DEFAULT_LEASE_MS`.
        context: the Lambda context, where there is one.
    """

    database: str
    holder: str
    timeout_ms: int
    connections: int = 1
    lease_ms: int | None = None
    context: InvocationContext | None = None

    @classmethod
    def of(
        cls,
        database: object,
        *,
        holder: object,
        timeout: object,
        connections: object = 1,
        lease_ms: object = None,
        context: InvocationContext | None = None,
    ) -> Ask:
        """What a caller passed.

        Raises:
            InvalidRequest: a value out of its bounds.
        """
        return cls(
            checks.database_name(database),
            checks.holder_name(holder),
            checks.timeout_ms(timeout),
            checks.connection_count(connections),
            None if lease_ms is None else checks.lease_length_ms(lease_ms),
            context,
        )

    def give_up_ms(self, clock: Clock) -> int:
        """No wait ends later than this: the time-out, or the invocation's deadline if that is earlier."""
        give_up_ms = clock.now_ms() + self.timeout_ms
        return give_up_ms if self.context is None else min(give_up_ms, deadline_ms(self.context, clock))

    def last_use_ms(self, clock: Clock) -> int:
        """Until when the holder will use what it gets: as it said, or the invocation's deadline, or the default."""
        if self.lease_ms is None and self.context is not None:
            return deadline_ms(self.context, clock)
        return clock.now_ms() + (self.lease_ms or DEFAULT_LEASE_MS)

    def end_ms(self, clock: Clock, margin_ms: int) -> int:
        """When its lease ends: as it said, or `margin_ms` past the invocation's deadline, or after the default."""
        past_deadline = self.lease_ms is None and self.context is not None
        return self.last_use_ms(clock) + (margin_ms if past_deadline else 0)
