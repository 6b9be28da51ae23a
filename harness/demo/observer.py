"""Look at the demo from outside, repeatedly: MySQL's own count, and the lease table."""

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
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from harness.stack.local_stack import Reachable

WORKER_USER = "governed_worker"  # the template's default
SESSIONS = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s"


def now_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class MySQLObserver:
    """Counts the worker's sessions, on a connection of its own.

    Attributes:
        connection: root's.
        samples: (milliseconds since 1970, sessions).
    """

    connection: Connection[Cursor]
    samples: list[tuple[int, int]] = field(default_factory=list)

    def sample(self) -> None:
        """Count once."""
        with self.connection.cursor() as cursor:
            cursor.execute(SESSIONS, (WORKER_USER,))
            row = cursor.fetchone()
        assert row is not None
        self.samples.append((now_ms(), int(row[0])))

    def latest(self) -> int:
        """Return the latest count; 0 before the first."""
        return self.samples[-1][1] if self.samples else 0


def sessions_begun(connection: Connection[Cursor]) -> int:
    """Return how many sessions the worker's user has had since MySQL was started."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT total_connections FROM performance_schema.users WHERE user = %s", (WORKER_USER,))
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def global_status(connection: Connection[Cursor], name: str) -> int:
    """Return a counter of SHOW GLOBAL STATUS."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE %s", (name,))
        row = cursor.fetchone()
    assert row is not None
    return int(row[1])


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
