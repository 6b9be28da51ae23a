"""Parts that reach the leases in the table itself: the `direct` transport, the functions, the operator's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.engine import Engine
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.aws.client import Endpoint
    from connection_governor.core.operations import Operations
    from connection_governor.core.store import LeaseStore
    from connection_governor.server.payloads import Requests
    from connection_governor.wiring.environment import Environment


def dynamodb_store(environment: Environment) -> DynamoDBStore:
    """Return the store in the table that `GOVERNOR_TABLE` names."""
    return _store_at(environment.endpoint("dynamodb"), environment)


def transport(environment: Environment) -> Service:
    """Return the governor in this process: what the function serves, and the `direct` transport."""
    endpoint = environment.endpoint("dynamodb")
    store = _store_at(endpoint, environment)
    engine = Engine(
        store,
        SYSTEM_CLOCK,
        SYSTEM_ENTROPY,
        least_skew_ms=environment.number("GOVERNOR_SKEW_MS", 0),
        clock_error_ms=lambda: endpoint.clock_error_ms,
    )
    return Service(engine, lambda: _operations_of(store), Reporter(), SYSTEM_CLOCK)


def _store_at(endpoint: Endpoint, environment: Environment) -> DynamoDBStore:
    return DynamoDBStore(DynamoDBCaller(endpoint), environment.required("GOVERNOR_TABLE"))


def operations(environment: Environment) -> Operations:
    """Return the operator's commands over the table that `GOVERNOR_TABLE` names."""
    return _operations_of(dynamodb_store(environment))


def _operations_of(store: LeaseStore) -> Operations:
    from connection_governor.core.operations import Operations  # noqa: PLC0415 - most workers only acquire and release

    return Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)


def requests(environment: Environment) -> Requests:
    """Return the answers of the governor function."""
    from connection_governor.server.payloads import Requests  # noqa: PLC0415 - only the function reads payloads

    return Requests(transport(environment), SYSTEM_CLOCK, SYSTEM_ENTROPY)
