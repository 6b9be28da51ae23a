"""Put a worker's parts together from environment variables, and load only those that they choose.

A transport is a module with `transport(environment)`. A kind of database is one with `opener`, and for the functions
`watch` and `administration`, each of the environment. Each is one new file and one line in the tables below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from connection_governor.client.keepalive import LONGEST_KEEP_S
from connection_governor.client.lease_file import NO_LEASE_FILE, LeaseFile
from connection_governor.client.ports import Dependencies
from connection_governor.core.deadline import RESERVE_MS
from connection_governor.metrics import Reporter
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring.environment import Environment

if TYPE_CHECKING:
    from connection_governor.client.acquire import Transport
    from connection_governor.client.ports import Opener
    from connection_governor.core.operations import Operations
    from connection_governor.server.ports import Administration, KeptWatch

__all__ = ["ENGINES", "TRANSPORTS", "Environment", "administration", "governor_parts", "opener", "watch"]

TRANSPORTS = {
    "direct": "connection_governor.wiring.table",
    "lambda": "connection_governor.wiring.function",
}
ENGINES = {
    "mysql": "connection_governor.wiring.mysql",
    "dsql": "connection_governor.wiring.dsql",
    "postgresql": "connection_governor.wiring.postgresql",
}
LONGEST_RESERVE_MS = 60_000


def governor_parts(environment: Environment) -> dict[str, Any]:
    """Return the parts of a worker's `Governor`."""
    return {
        "transport": _transport(environment),
        "dependencies": Dependencies(
            clock=SYSTEM_CLOCK,
            entropy=SYSTEM_ENTROPY,
            reporter=Reporter(),
            make_opener=(lambda: opener(environment)) if environment.get("DB_HOST") else None,
            operations=(lambda: _operations(environment)) if environment.get("GOVERNOR_TABLE") else None,
            lease_file=LeaseFile() if environment.get("AWS_LAMBDA_RUNTIME_API") else NO_LEASE_FILE,
            stops_at_deadline=not environment.is_managed_instance,
        ),
        "holder": environment.holder(),
        "database": environment.get("GOVERNOR_DATABASE") or None,
        "on_unavailable": environment.choice("GOVERNOR_ON_UNAVAILABLE", "raise", "raise", "open"),
        "keep_seconds": environment.number("GOVERNOR_KEEP_SECONDS", 0, most=LONGEST_KEEP_S),
        "reserve_ms": environment.number("GOVERNOR_RESERVE_MS", RESERVE_MS, most=LONGEST_RESERVE_MS),
    }


def _transport(environment: Environment) -> Transport:
    name = environment.choice("GOVERNOR_TRANSPORT", "direct", *TRANSPORTS)
    transport: Transport = import_module(TRANSPORTS[name]).transport(environment)
    return transport


def opener(environment: Environment) -> Opener:
    """Return the opener of sessions of the database that the variables name."""
    opener: Opener = _engine(environment).opener(environment)
    return opener


def watch(environment: Environment) -> KeptWatch:
    """Return the janitor's view of the database that the variables name; it connects at the first use."""
    watch: KeptWatch = _engine(environment).watch(environment)
    return watch


def administration(environment: Environment) -> Administration:
    """Return what signs in to a database of the kind that the variables name, for the seed."""
    administration: Administration = _engine(environment).administration(environment)
    return administration


def _engine(environment: Environment) -> Any:  # noqa: ANN401 - a module of the table
    return import_module(ENGINES[environment.choice("DB_ENGINE", "mysql", *ENGINES)])


def _operations(environment: Environment) -> Operations:
    from connection_governor.wiring import table  # noqa: PLC0415 - most workers change no budget

    return table.operations(environment)
