"""Transactions that lose to others are repeated: real conflicts of a real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.core.retry import RetryPolicy
from connection_governor.database.fence import Fence
from connection_governor.errors import LeaseLost
from connection_governor.postgresql.conflicts import POLICY, run_transaction, run_transaction_async
from tests.support.invocation import Invocation
from tests.support.postgresql import NAME, opener_of
from tests.support.virtual import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.database.target import Target
    from connection_governor.postgresql.session import FencedConnection

WORKERS, ROUNDS = 6, 5
PATIENT = RetryPolicy(tries=200, base_ms=1, ceiling_ms=20)


class Half:
    """Jitter that is always half."""

    def fraction(self) -> float:
        return 0.5

    def lease_id(self) -> str:
        raise AssertionError


@pytest.fixture
def session(opened: Callable[..., FencedConnection], root: psycopg.Connection[Any]) -> FencedConnection:
    """Return a session that sees snapshots, on a row with ten pieces."""
    root.execute("UPDATE stock SET pieces = 10 WHERE id = 1")
    return opened(settings={"default_transaction_isolation": "repeatable read"})


@pytest.fixture
def rival(opened: Callable[..., FencedConnection]) -> FencedConnection:
    """Return a session whose change the other one does not see."""
    return opened(autocommit=True)


def pieces(root: psycopg.Connection[Any]) -> int:
    (found,) = root.execute("SELECT pieces FROM stock WHERE id = 1").fetchone() or (0,)
    return int(found)


def take_one(connection: psycopg.Connection[Any]) -> int:
    """Read, think, and write: what optimistic concurrency is about."""
    (found,) = connection.execute("SELECT pieces FROM stock WHERE id = 1").fetchone() or (0,)
    connection.execute("UPDATE stock SET pieces = %s WHERE id = 1", [found - 1])
    return int(found) - 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_each_of_a_crowds_transactions_counts_once(
    opened: Callable[..., FencedConnection], root: psycopg.Connection[Any], level: str
) -> None:
    """A lost transaction fails its invocation, or one that is repeated wrongly counts twice."""
    root.execute("UPDATE stock SET pieces = 1000 WHERE id = 1")
    sessions = [opened(settings={"default_transaction_isolation": level}) for _ in range(WORKERS)]
    begin, runs = threading.Barrier(WORKERS), []

    def work(session: FencedConnection) -> None:
        def body(connection: psycopg.Connection[Any]) -> None:
            runs.append(1)
            take_one(connection)

        begin.wait()
        for _ in range(ROUNDS):
            run_transaction(session, body, policy=PATIENT)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, sessions))
    assert pieces(root) == 1000 - WORKERS * ROUNDS
    assert len(runs) > WORKERS * ROUNDS, "there were conflicts"


def test_a_transaction_without_a_conflict_runs_once(session: FencedConnection, root: psycopg.Connection[Any]) -> None:
    """The usual case must cost nothing, and be committed."""
    clock = VirtualClock()
    assert run_transaction(session, take_one, clock=clock) == 9
    assert pieces(root) == 9
    assert clock.naps == []


def conflicting(rival: FencedConnection, times: int) -> Callable[[psycopg.Connection[Any]], int]:
    """Return a body that loses so many times."""
    left = [times]

    def body(connection: psycopg.Connection[Any]) -> int:
        connection.execute("SELECT 1")  # the snapshot
        if left[0]:
            left[0] -= 1
            rival.execute("UPDATE stock SET pieces = pieces - 1 WHERE id = 1")
        return take_one(connection)

    return body


def test_the_pauses_grow_and_are_bounded(
    session: FencedConnection, rival: FencedConnection, root: psycopg.Connection[Any]
) -> None:
    """Rivals that meet again at once conflict again."""
    clock = VirtualClock()
    assert run_transaction(session, conflicting(rival, 7), clock=clock, entropy=Half()) == 10 - 7 - 1
    assert clock.naps == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25]
    assert pieces(root) == 2


def test_the_last_conflict_is_raised(
    session: FencedConnection, rival: FencedConnection, root: psycopg.Connection[Any]
) -> None:
    """A row that is always hot must show as an error."""
    clock = VirtualClock()
    with pytest.raises(psycopg.errors.SerializationFailure):
        run_transaction(session, conflicting(rival, 99), clock=clock, entropy=Half())
    assert len(clock.naps) == POLICY.tries - 1
    assert pieces(root) == 10 - POLICY.tries
    assert run_transaction(session, take_one) == 10 - POLICY.tries - 1, "the session can be used on"


@pytest.mark.parametrize(("left_s", "naps"), [(0.2, 0), (0.256, 1), (0.27, 2)])
def test_no_try_starts_in_the_invocations_last_moments(
    session: FencedConnection, rival: FencedConnection, left_s: float, naps: int
) -> None:
    """Lambda stops the worker in the middle of a transaction, and its lease is left to expire."""
    clock = VirtualClock()

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return round(left_s * 1_000)

    with pytest.raises(psycopg.errors.SerializationFailure):
        run_transaction(session, conflicting(rival, 99), context=Context(), clock=clock, entropy=Half())
    assert len(clock.naps) == naps


def test_no_try_starts_after_the_leases_last_moment(session: FencedConnection, rival: FencedConnection) -> None:
    """The caller would see LeaseLost, and not the conflict that was the cause."""
    clock = VirtualClock()
    session._clock = clock
    session.usable_until_ms = clock.now_ms() + 12
    with pytest.raises(psycopg.errors.SerializationFailure):
        run_transaction(session, conflicting(rival, 99), clock=clock, entropy=Half())
    assert clock.naps == [0.005]
    session.usable_until_ms = clock.now_ms() - 1
    with pytest.raises(LeaseLost):
        run_transaction(session, take_one, clock=clock)
    session.usable_until_ms = None


def test_nothing_else_is_repeated(session: FencedConnection, root: psycopg.Connection[Any]) -> None:
    """A body that fails would run eight times, with all that it does beside the database."""
    ran = []

    def body(connection: psycopg.Connection[Any]) -> None:
        ran.append(1)
        take_one(connection)
        connection.execute("SELECT 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        run_transaction(session, body)
    with pytest.raises(KeyError):
        run_transaction(session, lambda _: dict[str, int]()["nothing"])
    assert len(ran) == 1
    assert pieces(root) == 10


def test_a_transaction_that_is_open_already_is_refused(
    session: FencedConnection, root: psycopg.Connection[Any]
) -> None:
    """Only the inner part would be repeated, in a snapshot that has lost for good."""
    take_one(session)
    with pytest.raises(psycopg.ProgrammingError, match="open already"):
        run_transaction(session, take_one)
    session.commit()
    assert pieces(root) == 9


def test_coroutines_transactions_are_repeated(target: Target, root: psycopg.Connection[Any]) -> None:
    """Only workers without asyncio get through on a hot row."""
    root.execute("UPDATE stock SET pieces = 1000 WHERE id = 1")

    async def take(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor = await connection.execute("SELECT pieces FROM stock WHERE id = 1")
        (found,) = await cursor.fetchone() or (0,)
        await connection.execute("UPDATE stock SET pieces = %s WHERE id = 1", [found - 1])

    async def work() -> None:
        session = opener_of(target).new_async_session(Fence(), NAME, None)
        await session.open()
        try:
            for _ in range(ROUNDS):
                await run_transaction_async(session, take, context=Invocation(20), policy=PATIENT)
        finally:
            await session.take_leave()

    async def crowd() -> None:
        await asyncio.gather(*(work() for _ in range(WORKERS)))

    asyncio.run(crowd())
    assert pieces(root) == 1000 - WORKERS * ROUNDS


@pytest.fixture(autouse=True)
def _as_it_was(root: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    root.execute("UPDATE stock SET pieces = 10 WHERE id = 1")
