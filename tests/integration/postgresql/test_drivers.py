"""Other ways to a governed PostgreSQL session: coroutines, pools and ORMs; and a server that does not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.deadline import Deadline
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.system import SYSTEM_CLOCK
from tests.support.invocation import Invocation
from tests.support.postgresql import NAME, opener_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.client.governor import Governor


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Yield a listener that accepts and never answers, as a database does that resumes from a pause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_cancelled_query_ends_on_the_server_and_its_lease_is_released(
    governor: Governor, listed: Callable[[], int]
) -> None:
    """A cancelled task would leave its statement at work under the next holder's lease."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            await connection.execute("SELECT pg_sleep(100)")

    async def cancelled() -> float:
        task = asyncio.create_task(work())
        await asyncio.to_thread(until, lambda: listed() == 1)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(cancelled()) < 2.0
    assert (listed(), governor.status().in_use) == (0, 0)


def test_the_loop_runs_on_while_a_session_opens_and_closes(governor: Governor) -> None:
    """Every other task of the worker would stand still for each opening."""

    async def work() -> float:
        longest, done = 0.0, asyncio.Event()

        async def beat() -> None:
            nonlocal longest
            while not done.is_set():
                began = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)

        beating = asyncio.create_task(beat())
        with suppress(psycopg.errors.QueryCanceled):
            async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
                await connection.execute("SELECT pg_sleep(2)")  # the fence ends it after 0.5 s
        done.set()
        await beating
        return longest

    assert asyncio.run(work()) < 0.4


def test_sqlalchemy_takes_governed_connections(governor: Governor, listed: Callable[[], int]) -> None:
    """An application with an ORM could not be governed."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: governor.connect(context=Invocation()), poolclass=NullPool
    )
    for _ in range(2):
        with engine.begin() as connection:
            assert connection.execute(text("SELECT pieces FROM stock WHERE id = :id"), {"id": 2}).scalar() == 20
            assert governor.status().in_use == 1
        assert (governor.status().in_use, listed()) == (0, 0)


def test_a_silent_server_is_given_up_within_the_invocation(silent: socket.socket) -> None:
    """A worker would wait until Lambda stops it, and could not answer its caller."""
    target = Target("127.0.0.1", silent.getsockname()[1], connect_seconds=0.2)
    session = opener_of(target).new_session(Fence(), NAME, None, Deadline.after(1_200, SYSTEM_CLOCK))
    began = time.monotonic()
    with closing(session), pytest.raises(psycopg.OperationalError):
        session.connect()
    assert 0.7 < time.monotonic() - began < 1.2, "it tried again, and ended before the invocation does"
    assert not session.may_linger, "no login was sent"


def test_a_server_that_resumes_is_reached_within_the_invocation(target: Target, silent: socket.socket) -> None:
    """The first invocation after a pause would fail, and so would its retries."""
    where = silent.getsockname()
    attempts: list[socket.socket] = []

    def resume() -> None:
        attempts.append(silent.accept()[0])  # the first one gets no answer
        for _ in range(2):
            client, server = silent.accept()[0], socket.create_connection((target.host, target.port))
            attempts.extend((client, server))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    threading.Thread(target=resume, daemon=True).start()
    through = Target("127.0.0.1", where[1], "shop", tls_ca=target.tls_ca, connect_seconds=0.3)
    session = opener_of(through).new_session(Fence(), NAME, None, Deadline.after(10_000, SYSTEM_CLOCK))
    with closing(session):
        session.connect()
        assert session.execute("SELECT 1").fetchone() == (1,)
    for each in attempts:
        each.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while heard := one.recv(65_536):
            other.sendall(heard)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
