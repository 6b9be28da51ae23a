"""A SQLAlchemy engine whose connections are governed. Needs `connection-governor[sqlalchemy]`.

    engine = governed_engine(Governor.from_env(), "orders", timeout=2.0)

    def handler(event, context):
        with invocation(context), Session(engine) as session:
            ...

The engine keeps no connection: checking one in closes it and releases its lease. A session holds one from its first
statement to its commit, rollback or close.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.pool import NullPool

from connection_governor.client.request import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from connection_governor.client.governor import Governor
    from connection_governor.core.deadline import InvocationContext

_context: ContextVar[InvocationContext | None] = ContextVar("invocation", default=None)


@contextmanager
def invocation(context: InvocationContext) -> Iterator[None]:
    """Bound every engine in the body: leases last until this invocation's deadline, and no checkout waits past it."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def governed_engine(
    governor: Governor,
    database: str | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    lease_ms: int | None = None,
    **options: Any,  # noqa: ANN401 - SQLAlchemy's own
) -> Engine:
    """Return an engine that acquires before it connects, and releases after it has closed.

    Args:
        governor: acquires the leases and opens the connections.
        database: the governed database; default: the governor's.
        timeout: how long a checkout waits for a connection, in seconds.
        lease_ms: how long a connection may be held without `invocation`; default 30,000.
        options: of `sqlalchemy.create_engine`, but for `creator` and the pool's. What is in `connect_args` must be what
            `Governor.connect` takes.

    Returns:
        The engine. Its checkouts raise as `Governor.connect`: `NoConnectionsLeft` and so on, not wrapped.
    """
    # Closing resets the session: SQLAlchemy's own rollback before it would be one round trip more.
    engine = create_engine("mysql+pymysql://", poolclass=NullPool, pool_reset_on_return=None, **options)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _arguments: object, driver: dict[str, Any]) -> Any:  # noqa: ANN401 - as `connect`
        """Connect with what the dialect and `connect_args` ask of the driver: FOUND_ROWS, which the ORM relies on."""
        return governor.connect(database, timeout=timeout, lease_ms=lease_ms, context=_context.get(), **driver)

    return engine
