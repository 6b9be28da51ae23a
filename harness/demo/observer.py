"""Look at the demo from outside, repeatedly: the database's own count, and the lease table."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring import Environment
from connection_governor.wiring.table import dynamodb_store
from harness.stack.deployment import DATABASE_NAME

if TYPE_CHECKING:
    from harness.demo.referee import Referee
    from harness.stack.local_stack import Reachable


def now_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class DatabaseObserver:
    """Has the worker's sessions counted.

    Attributes:
        referee: the server's figures, on a connection that nothing else uses.
        samples: (milliseconds since 1970, sessions).
    """

    referee: Referee
    samples: list[tuple[int, int]] = field(default_factory=list)

    def sample(self) -> None:
        """Count once."""
        count = self.referee.sessions()
        self.samples.append((now_ms(), count))

    def latest(self) -> int:
        """Return the latest count; 0 before the first."""
        return self.samples[-1][1] if self.samples else 0


@dataclass(slots=True)
class TableObserver:
    """Reads the connections in use, as an operator would: consistently, and without changing anything.

    Attributes:
        operations: of the deployed table.
        samples: (milliseconds since 1970, connections in use).
    """

    operations: Operations
    samples: list[tuple[int, int]] = field(default_factory=list)

    def sample(self) -> None:
        """Read once."""
        self.samples.append((now_ms(), self.in_use()))

    def in_use(self) -> int:
        """Return the connections in use; an expired lease counts until an acquire takes it over."""
        return self.operations.status(DATABASE_NAME).in_use

    def latest(self) -> int:
        """Return the latest reading; 0 before the first."""
        return self.samples[-1][1] if self.samples else 0


def operations_of(stack: Reachable) -> Operations:
    """Return the operator's commands on the deployed table."""
    return Operations(dynamodb_store(Environment(stack.variables)), SYSTEM_CLOCK, SYSTEM_ENTROPY)
