"""A governor whose database is a real PostgreSQL: what it yields, keeps, refuses and releases."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.client.aio import AsyncGovernor
from connection_governor.database.fence import Fence
from connection_governor.errors import InvalidRequest, LeaseLost, NoConnectionsLeft
from connection_governor.system import SYSTEM_CLOCK
from tests.support.invocation import Invocation
from tests.support.postgresql import opener_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.client.governor import Governor
    from connection_governor.database.target import Target
    from connection_governor.postgresql.session import FencedConnection


def in_use(governor: Governor) -> int:
    """Return how many connections are in use."""
    return governor.status().in_use


def test_a_body_gets_a_psycopg_connection_and_leaves_nothing_behind(
    governor: Governor, listed: Callable[[], int]
) -> None:
    """The promise of the package, on PostgreSQL."""
    with governor.connection(context=Invocation()) as connection:
        assert isinstance(connection, psycopg.Connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert (in_use(governor), listed()) == (1, 1)
        with pytest.raises(NoConnectionsLeft), governor.connection(timeout=0):
            pass
    assert (in_use(governor), listed()) == (0, 0)


def test_a_kept_session_serves_the_next_body(governor: Governor, listed: Callable[[], int]) -> None:
    """Each invocation would open a connection of its own: on PostgreSQL that forks a process."""
    governor.set_budget("orders", 10)  # else there is pressure
    numbers = set()
    for _ in range(5):
        with governor.connection(context=Invocation(), keep_seconds=2) as connection:
            numbers.add(connection.info.backend_pid)
            assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
            connection.execute("SET search_path = pg_catalog")
    assert (len(numbers), listed()) == (1, 1)
    governor.close()
    assert (in_use(governor), listed()) == (0, 0)


def test_a_body_with_an_error_of_the_driver_is_not_kept(governor: Governor, listed: Callable[[], int]) -> None:
    """The next body might get a session in an unknown state."""

    def failing() -> None:
        with governor.connection(context=Invocation(), keep_seconds=2) as connection:
            connection.execute("SELECT nonsense")

    with pytest.raises(psycopg.errors.UndefinedColumn):
        failing()
    assert (in_use(governor), listed()) == (0, 0)


def test_a_late_statement_is_refused(governor: Governor) -> None:
    """It could still run when the lease has expired, and another worker has the slot."""
    with governor.connection(context=Invocation()) as connection:
        connection.execute("SELECT 1")
        connection.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
        with pytest.raises(LeaseLost):
            connection.execute("SELECT 1")
        with pytest.raises(LeaseLost):
            connection.commit()
    assert in_use(governor) == 0


@pytest.mark.parametrize("option", [{"password": "x"}, {"settings": {"statement_timeout": "0"}}])
def test_what_the_governor_sets_cannot_be_set_by_a_caller(governor: Governor, option: dict[str, Any]) -> None:
    """A caller would leave the fence without knowing it."""
    with pytest.raises(InvalidRequest), governor.connection(**option):
        pass
    assert in_use(governor) == 0


def test_coroutines_get_a_psycopg_connection(governor: Governor, listed: Callable[[], int]) -> None:
    """The promise of the package, for asyncio."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            assert isinstance(connection, psycopg.AsyncConnection)
            cursor = await connection.execute("SELECT current_setting('statement_timeout')")
            assert await cursor.fetchone() == ("500ms",)
            assert await asyncio.to_thread(lambda: (in_use(governor), listed())) == (1, 1)
        assert await asyncio.to_thread(lambda: (in_use(governor), listed())) == (0, 0)

    asyncio.run(work())


@pytest.fixture
def zombie(governor: Governor, target: Target) -> Iterator[FencedConnection]:
    """Open a session whose holder is gone, and which holds a row; its lease ends in a second."""
    lease = governor.acquire(lease_ms=1_000)
    with closing(opener_of(target).open(Fence(idle_seconds=30), lease.session_name, None)) as session:
        session.execute("UPDATE stock SET pieces = 5 WHERE id = 1")
        yield session


def test_the_taker_of_a_lease_ends_the_session_that_lives_on(governor: Governor, zombie: FencedConnection) -> None:
    """The zombie holds the row until its own limits end it."""
    with governor.connection(timeout=5, context=Invocation(20)) as connection:
        connection.execute("UPDATE stock SET pieces = 10 WHERE id = 1")
    assert not zombie.is_alive()


def test_coroutines_end_it_as_well(governor: Governor, zombie: FencedConnection) -> None:
    """As above, for asyncio."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(timeout=5, context=Invocation(20)) as connection:
            driver: Any = connection
            await driver.execute("UPDATE stock SET pieces = 10 WHERE id = 1")

    asyncio.run(work())
    assert not zombie.is_alive()
