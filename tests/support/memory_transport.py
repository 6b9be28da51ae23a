"""A transport of one process's memory: what one new file and one line in `wiring.TRANSPORTS` take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.wiring import Environment


def transport(environment: Environment) -> Service:
    """Return a governor over memory, with a budget of one for the default database."""
    store = MemoryStore()
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget(environment.required("GOVERNOR_DATABASE"), 1)
    engine = Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    return Service(engine, lambda: operations, Reporter(lambda _line: None), SYSTEM_CLOCK)
