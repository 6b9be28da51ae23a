"""Repeat a transaction that lost to another one: with optimistic concurrency that is usual, and no fault.

Aurora DSQL finds conflicts at the commit, and PostgreSQL with REPEATABLE READ or SERIALIZABLE at a statement or at the
commit. Either way the transaction has changed nothing, and its error is 40001. No other error is repeated: not a
deadlock's, and never the loss of the connection, after which a commit may have happened.

The body runs once more for each try. So it must do nothing outside of its transaction that it cannot do twice.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from connection_governor.core.deadline import RESERVE_MS, Deadline
from connection_governor.core.retry import RetryPolicy
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import InvocationContext
    from connection_governor.core.entropy import Entropy

    Connection = psycopg.Connection[Any]
    AsyncConnection = psycopg.AsyncConnection[Any]

T = TypeVar("T")

POLICY: Final = RetryPolicy(tries=8, base_ms=10, ceiling_ms=500)
# DSQL's own codes stand in the message of a 40001; its first versions had them in the code's place.
_CONFLICTS: Final = frozenset({"40001", "OC000", "OC001"})


def run_transaction(
    connection: Connection,
    body: Callable[[Connection], T],
    *,
    context: InvocationContext | None = None,
    policy: RetryPolicy = POLICY,
    clock: Clock = SYSTEM_CLOCK,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> T:
    """Return what the body returns, in a transaction that was committed; repeat both while they conflict.

    Args:
        connection: a session without an open transaction.
        body: called with the connection for each try; it neither commits nor rolls back.
        context: the Lambda context: no try starts in the last 250 ms of its invocation.
        policy: how often, and how long to wait at most before each retry (full jitter).
        clock: waits, and measures the time that is left.
        entropy: draws the waits.

    Raises:
        psycopg.errors.SerializationFailure: the last try's conflict.
        psycopg.ProgrammingError: a transaction is open, so that nothing can be repeated.
        Exception: what the body raises; the transaction is rolled back.
    """
    pauses = _Pauses(connection, context, policy, clock, entropy)
    while True:
        try:
            with connection.transaction():
                return body(connection)
        except psycopg.Error as conflict:
            pause_s = pauses.after(conflict)
            if pause_s is None:
                raise
        clock.sleep(pause_s)


async def run_transaction_async(
    connection: AsyncConnection,
    body: Callable[[AsyncConnection], Awaitable[T]],
    *,
    context: InvocationContext | None = None,
    policy: RetryPolicy = POLICY,
    clock: Clock = SYSTEM_CLOCK,
    entropy: Entropy = SYSTEM_ENTROPY,
) -> T:
    """As `run_transaction`, for coroutines."""
    pauses = _Pauses(connection, context, policy, clock, entropy)
    while True:
        try:
            async with connection.transaction():
                return await body(connection)
        except psycopg.Error as conflict:
            pause_s = pauses.after(conflict)
            if pause_s is None:
                raise
        await asyncio.sleep(pause_s)


class _Pauses:
    """The pauses of one transaction's retries."""

    def __init__(
        self,
        connection: Connection | AsyncConnection,
        context: InvocationContext | None,
        policy: RetryPolicy,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        if connection.info.transaction_status != TransactionStatus.IDLE:
            raise psycopg.ProgrammingError("a transaction is open already: what it did cannot be repeated")
        self._connection = connection
        self._until = None if context is None else Deadline.of_invocation(context, clock).before(RESERVE_MS)
        self._policy = policy
        self._clock = clock
        self._entropy = entropy
        self._tried = 0

    def after(self, error: psycopg.Error) -> float | None:
        """Return how many seconds to wait before the next try; None: there is none."""
        self._tried += 1
        if error.sqlstate not in _CONFLICTS or self._tried >= self._policy.tries:
            return None
        longest_ms = min(self._policy.ceiling_ms, self._policy.base_ms << (self._tried - 1))
        pause_ms = self._entropy.fraction() * longest_ms
        return None if pause_ms >= self._left_ms() else pause_ms / 1_000

    def _left_ms(self) -> float:
        """Return the time in which a try may start: of the invocation, and of the session's lease."""
        left_ms = float("inf") if self._until is None else self._until.left_ms()
        usable_until_ms = getattr(self._connection, "usable_until_ms", None)
        return left_ms if usable_until_ms is None else min(left_ms, usable_until_ms - self._clock.now_ms())
