"""What a drill orders of its workers, and the limits under which they work: short, so that a test can wait for them."""

from __future__ import annotations

from dataclasses import dataclass

from connection_governor.database.fence import Fence

FENCE = Fence(idle_seconds=1, statement_seconds=1.0, write_seconds=1)


@dataclass(frozen=True, slots=True)
class Order:
    """How some workers are to work.

    Attributes:
        workers: how many.
        variables: their environment.
        hold_s: least and most that they hold a connection.
        deadline_s: of each invocation.
        timeout_s: how long they wait for a connection.
    """

    workers: int
    variables: dict[str, str]
    hold_s: tuple[float, float] = (0.05, 0.3)
    deadline_s: float = 1.5
    timeout_s: float = 1.0
