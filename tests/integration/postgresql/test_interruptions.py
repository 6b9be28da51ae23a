"""Exceptions between any two instructions of our session and of psycopg, as a signal handler's time-out raises them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.client.aio import AsyncGovernor
from tests.support.interruption import Interrupted, interrupted
from tests.support.invocation import Invocation
from tests.support.postgresql import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.client.governor import Governor
    from connection_governor.core.memory import MemoryStore
    from connection_governor.database.target import Target

POINTS = int(os.environ.get("INTERRUPTION_POINTS", "20"))  # of some 20,000
ESTABLISHED = "01"


def use(governor: Governor) -> None:
    """Do a body's work."""
    with governor.connection(context=Invocation(20), keep_seconds=1) as connection:
        connection.execute("UPDATE stock SET pieces = pieces WHERE id = 1")
        connection.commit()


def use_async(governor: Governor) -> None:
    """Do the same by coroutines, which keep nothing."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation(20)) as connection:
            await connection.execute("UPDATE stock SET pieces = pieces WHERE id = 1")
            await connection.commit()

    asyncio.run(work())


def open_sockets(port: int) -> int:
    """Return how many connections to the database neither this process nor the server has closed."""
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            own.add(str(descriptor.readlink()))
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    established = [row for row in rows if row[2].endswith(f":{port:04X}") and row[3] == ESTABLISHED]
    return sum(f"socket:[{row[9]}]" in own for row in established)


def names(root: psycopg.Connection[Any]) -> set[str]:
    """Return the leases of the worker's sessions."""
    query = "SELECT split_part(application_name, ':', 2) FROM pg_stat_activity WHERE usename = 'worker'"
    return {name for (name,) in root.execute(query)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an exception within `__del__`
@pytest.mark.parametrize("body", [use, use_async])
def test_an_exception_at_any_instruction_leaves_no_session_without_its_lease(
    body: Callable[[Governor], None],
    governor: Governor,
    store: MemoryStore,
    target: Target,
    root: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lease would be granted again while its first session is still open, or a socket stay open for hours."""
    caplog.set_level(logging.CRITICAL, "psycopg")
    caplog.set_level(logging.CRITICAL, "asyncio")
    governor.set_budget("orders", 500)  # leases that are left to expire must be no pressure
    with interrupted(0) as counted:
        body(governor)
    governor.close()
    struck = 0
    for number in range(POINTS):
        at = 1 + number * counted.passed // POINTS
        with suppress(Interrupted, psycopg.Error), interrupted(at) as interruption:
            body(governor)
        struck += interruption.happened
        leased = {lease for shard in store._shards.values() for lease in shard.leases}
        assert names(root) <= leased, f"at {at} a lease was released, and its session is open"
        governor.close()
        gc.collect()
        assert open_sockets(target.port) == 0, f"at {at} a socket stayed open"
        until(lambda: not names(root), 3.0)
    assert struck >= POINTS // 2
