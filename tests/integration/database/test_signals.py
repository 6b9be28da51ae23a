"""Exceptions at every line of `connection()`, as a signal handler's time-out raises them, on a real MariaDB.

The lines of the package's client and drivers, of PyMySQL and of aiomysql are counted as they run; at one of them the
exception strikes. After each such run the next ones must get their own answers and keep their connections again. No
lease may be released while its socket is open, and no socket may stay open. The requests for leases are not struck.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiomysql
import pymysql
import pytest

import connection_governor
from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import KEEP_SECONDS, ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from connection_governor.client.governor import Governor
    from connection_governor.core.lease import ShardKey
    from connection_governor.core.store import Unwritten, Written
    from connection_governor.database.target import Target

PACKAGE = Path(connection_governor.__file__).parent
STRUCK = (
    str(PACKAGE / "client") + os.sep,
    str(PACKAGE / "mysql") + os.sep,
    str(Path(pymysql.__file__).parent) + os.sep,
    str(Path(aiomysql.__file__).parent) + os.sep,
)
REQUESTS = str(PACKAGE / "client" / "acquire.py"), str(PACKAGE / "client" / "backoff.py")
BEFORE_ANY_SESSION = "_open_connection"  # aiomysql's: until it returns nothing was sent, and the loop has the socket
BUDGET = 20
ESTABLISHED = "01"
STRIDE = int(os.environ.get("SIGNAL_STRIDE", "5"))  # 1: every line; ten minutes


class OutOfTimeError(Exception):
    """What a time-out library raises from its signal handler."""


class Striker:
    """Counts the lines that a run passes, and raises at one of them.

    Args:
        at: which, from 0; None: at none.

    Attributes:
        passed: the lines, in order.
    """

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self.passed: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    @property
    def where(self) -> str:
        """The line passed last."""
        path, number = self.passed[-1]
        return f"{Path(path).name}:{number}"

    def first_and_last(self) -> list[int]:
        """Return where each line was passed for the first time, and each of the package's own for the last."""
        last = {line: at for at, line in enumerate(self.passed) if line[0].startswith(str(PACKAGE))}
        first = {line: at for at, line in reversed(list(enumerate(self.passed)))}
        points = {*first.values(), *last.values()}
        return sorted(at for at in points if not _is_with(*self.passed[at]))

    def _call(self, frame: FrameType, _event: str, _argument: object) -> Any:  # noqa: ANN401 - a trace function's
        code = frame.f_code
        is_struck = code.co_filename.startswith(STRUCK) and code.co_filename not in REQUESTS
        return self._line if is_struck and not code.co_qualname.startswith(BEFORE_ANY_SESSION) else None

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401 - as above
        if event == "line":
            self.passed.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.passed) - 1 == self._at:
                raise OutOfTimeError
        return self._line


def _is_with(path: str, number: int) -> bool:
    """Return whether it is the line of a `with`: no signal is handled on the way out of one, but a tracer is called."""
    return linecache.getline(path, number).lstrip().startswith(("with ", "async with "))


class WatchedStore(FaultyStore):
    """Leases in memory; each release is compared with the sockets that are open then.

    Attributes:
        port: the database's.
        early: how often more sockets were open than leases left.
    """

    port = 0
    early = 0

    def start_anew(self) -> None:
        """Forget all leases: those that were left to expire would be pressure in the end."""
        self.inner = MemoryStore()
        Operations(self.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET, shards=1)

    def remove(self, key: ShardKey, leases: tuple[tuple[str, str], ...]) -> Written | Unwritten:
        """See `LeaseStore.remove`."""
        trace = sys.gettrace()
        sys.settrace(None)  # this is the other side of the network
        try:
            released = self.inner.remove(key, leases)
            if open_sockets(self.port) > len(lease_ids(self)):
                self.early += 1
            return released
        finally:
            sys.settrace(trace)


def open_sockets(port: int) -> int:
    """Return how many connections to the database neither this process nor the server has closed."""
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            own.add(str(descriptor.readlink()))
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    established = [row for row in rows if row[2].endswith(f":{port:04X}") and row[3] == ESTABLISHED]
    return sum(f"socket:[{row[9]}]" in own for row in established)


@pytest.fixture
def store(target: Target) -> WatchedStore:
    """Return a budget that never knows pressure."""
    store = WatchedStore(MemoryStore())
    store.port = target.port
    store.start_anew()
    return store


@pytest.fixture
def governor(store: WatchedStore, target: Target) -> Iterator[Governor]:
    """Yield a governor on real sessions."""
    governor = governor_on(store, target, fence=Fence(idle_seconds=2, statement_seconds=1.0))
    yield governor
    governor.close()


def use(governor: Governor, token: str, keep_seconds: int) -> int:
    """Ask twice, in a transaction, for what nobody else has asked for; return the session."""
    with governor.connection(context=Invocation(10), keep_seconds=keep_seconds) as connection:
        assert ask(connection, f"SELECT '{token}'") == token
        connection.begin()
        assert ask(connection, f"SELECT '{token} again'") == f"{token} again"
        connection.commit()
        number: int = connection.thread_id()
        return number


def use_async(governor: Governor, token: str, keep_seconds: int) -> int:
    """Do the same by aiomysql, which keeps nothing."""

    async def work() -> int:
        async with AsyncGovernor(governor).connection(context=Invocation(10)) as connection:
            async with connection.cursor() as cursor:
                await cursor.execute(f"SELECT '{token}'")
                assert await cursor.fetchone() == (token,)
                await connection.begin()
                await cursor.execute(f"SELECT '{token} again'")
                assert await cursor.fetchone() == (f"{token} again",)
                await connection.commit()
            return int(connection.thread_id())

    return asyncio.run(work())


def strike(run: Callable[[], object], at: int) -> str:
    """Run, and raise at one line: nothing of the exception is left when this returns. Return which line it was."""
    with Striker(at) as striker, suppress(OutOfTimeError, pymysql.err.MySQLError):
        run()
    gc.collect()
    return striker.where


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("use", "keep_seconds", "warm"),
    [(use, 0, False), (use, KEEP_SECONDS, False), (use, KEEP_SECONDS, True), (use_async, 0, False)],
    ids=["per-invocation", "kept-first", "kept-again", "asyncio"],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_an_exception_at_any_line_does_no_lasting_harm(
    governor: Governor, store: WatchedStore, use: Callable[[Governor, str, int], int], keep_seconds: int, *, warm: bool
) -> None:
    """Wrong rows, a slot that is granted twice, or an environment that never keeps a connection again."""
    for _ in range(2):  # the second knows all that is read once
        if not warm:
            governor.close()
        with Striker() as untouched:
            use(governor, "untouched", keep_seconds)
    governor.close()
    points = untouched.first_and_last()
    gc.freeze()  # what pytest has made need not be looked at again and again
    assert len(points) > 200
    for at in points[::STRIDE]:
        if warm:
            use(governor, "warm", keep_seconds)
        where = strike(lambda at=at: use(governor, f"struck at {at}", keep_seconds), at)  # type: ignore[misc]
        first, second = use(governor, f"one after {at}", keep_seconds), use(governor, f"two after {at}", keep_seconds)
        assert (first == second) is bool(keep_seconds), f"never kept again after {where}"
        governor.close()
        assert open_sockets(store.port) == 0, f"left open after {where}"
        assert store.early == 0, f"released before its socket was closed, after {where}"
        store.start_anew()
