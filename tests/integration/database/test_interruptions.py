"""Commands that are interrupted between any two instructions, on a real server: no answer is ever another query's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql
import pytest
from aiomysql import SSCursor as AsyncSSCursor
from pymysql.cursors import SSCursor

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import only
from connection_governor.mysql.async_session import AsyncFencedConnection
from connection_governor.mysql.connect import new_session
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import SHORT, WORKER, Opener, ask, governor_on, opener_for
from tests.support.faulty_store import FaultyStore
from tests.support.interruption import interrupted
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

STRIDE = int(os.environ.get("INTERRUPTION_STRIDE", "11"))  # 1: at each instruction, which takes minutes
MOST = 5_000
SOON_S = 1.0


def stream(session: FencedConnection) -> None:
    cursor = session.cursor(SSCursor)
    cursor.execute("SELECT 'theirs' FROM seq_1_to_5")
    cursor.fetchone()


def refused(session: FencedConnection) -> None:
    with pytest.raises(pymysql.err.ProgrammingError):
        session.query("SELECT * FROM nowhere")


COMMANDS: dict[str, Callable[[FencedConnection], object]] = {
    "ping": lambda session: session.is_alive(),
    "reset": lambda session: session.reset(),
    "begin": lambda session: session.begin(),
    "query": lambda session: ask(session, "SELECT 'theirs'"),
    "procedure": lambda session: session.query("CALL two_of_them()"),
    "stream": stream,
    "set": lambda session: session.set_character_set("utf8mb4"),
    "warnings": lambda session: session.show_warnings(),  # type: ignore[no-untyped-call]
    "refused": refused,
}


@pytest.fixture(scope="module")
def procedures(shop: MySQLFamilyServer) -> None:
    shop.execute(
        "DROP PROCEDURE IF EXISTS shop.two_of_them",
        "CREATE PROCEDURE shop.two_of_them() BEGIN SELECT 'theirs'; SELECT 'theirs', 2; END",
    )


def answers_rightly(session: FencedConnection, number: int) -> bool:
    """Return whether the session answers at all; fail where it answers another question."""
    try:
        answer = ask(session, f"SELECT 'mine {number}'")
    except pymysql.err.Error:
        return False
    assert answer == f"mine {number}"
    return True


@pytest.mark.filterwarnings("ignore:Previous unbuffered:UserWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of cursors that were interrupted
@pytest.mark.parametrize("command", COMMANDS)
def test_no_answer_is_another_querys(opened: Opener, procedures: None, command: str) -> None:
    """Asked for bob, got alice; an INSERT that MySQL refused is reported as done."""
    session = opened()
    usable = unusable = 0
    for at in range(1, MOST, STRIDE):
        with interrupted(at) as interruption:
            COMMANDS[command](session)
        if answers_rightly(session, at):
            usable += 1
            continue
        unusable += 1
        assert not session._state.is_ready
        session.close()
        session = opened()
        if not interruption.happened:
            break
    assert usable
    assert unusable, "no interruption did any harm: the test interrupts nothing"


async def run_async(session: AsyncFencedConnection, command: str) -> None:
    if command == "stream":
        cursor = await session.cursor(AsyncSSCursor)
        await cursor.execute("SELECT 'theirs' FROM seq_1_to_5")
        await cursor.fetchone()
        cursor._connection = None  # closing it would read to the end
    elif command in ("query", "procedure"):
        await session.query("SELECT 'theirs'" if command == "query" else "CALL two_of_them()")
    else:
        await getattr(session, command)(*(("utf8mb4",) if command == "set_charset" else ()))


@pytest.mark.filterwarnings("ignore:Previous unbuffered:UserWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("command", ["ping", "begin", "query", "procedure", "stream", "set_charset", "show_warnings"])
def test_no_async_answer_is_another_querys(target: Target, procedures: None, command: str) -> None:
    """The same for asyncio."""

    async def once(session: AsyncFencedConnection, at: int) -> bool:
        with interrupted(at) as interruption:
            await run_async(session, command)
        return interruption.happened

    async def right(session: AsyncFencedConnection, number: int) -> bool:
        try:
            await session.query(f"SELECT 'mine {number}'")
        except (pymysql.err.Error, RuntimeError):
            return False
        assert session._result.rows == ((f"mine {number}",),)
        return True

    async def work() -> tuple[int, int]:
        usable = unusable = 0
        opener = opener_for(target, WORKER)
        session = AsyncFencedConnection(opener, SHORT, "", None)
        await session.open()
        for at in range(1, MOST, STRIDE):
            happened = await asyncio.create_task(once(session, at))  # a time-out that it leaves behind cancels no more
            if await right(session, at):
                usable += 1
                if not happened:
                    break
                continue
            unusable += 1
            session.close()
            session = AsyncFencedConnection(opener, SHORT, "", None)
            await session.open()
        await session.take_leave()
        return usable, unusable

    usable, unusable = asyncio.run(work())
    assert usable
    assert unusable


def sockets() -> int:
    gc.collect()
    return sum("socket:" in str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_opening_leaves_no_session(target: Target, root: Connection[Cursor]) -> None:
    """Its lease is given back, while MySQL has a session of it that no one will ever close."""
    before = sockets()
    lingering = 0
    for at in range(1, MOST, STRIDE):
        session = new_session(target, only(WORKER), SHORT)
        with interrupted(at) as interruption:
            session.connect()
        session.close()
        assert session._sock is None
        lingering += session.may_linger
        if not interruption.happened:
            break
    assert not interruption.happened
    assert lingering
    assert sockets() <= before
    until = time.monotonic() + SOON_S
    while ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s", WORKER.username):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of sockets that never connected
def test_a_ping_that_a_signal_interrupts_ends_the_kept_session(
    target: Target,
) -> None:
    """In the next invocation every query gets the answer of the one before."""
    interruptions: list[int] = []
    number = 0

    class OutOfTime(Exception):  # noqa: N818 - as a time-out library's
        pass

    def out_of_time(_number: int, _frame: object) -> None:
        interruptions.append(number)
        raise OutOfTime

    store = FaultyStore(MemoryStore())
    enough = 100  # each interrupted ping leaves its lease to expire
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", enough)
    governor = governor_on(store, target)
    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        for number in range(60):
            with contextlib.suppress(OutOfTime):  # outermost: the signal may come as late as in the timer's end
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00005 * (number % 10))
                try:
                    with governor.connection(context=Invocation()) as connection:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                        assert ask(connection, f"SELECT {number}") == number
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            with governor.connection(context=Invocation()) as connection:
                assert ask(connection, f"SELECT {number} + 1000") == number + 1000
    finally:
        signal.signal(signal.SIGALRM, before)
        governor.close()
    assert interruptions


@pytest.mark.parametrize("first", ["is_alive", "reset"])
def test_a_short_limit_is_one_commands_only(opened: Opener, first: str) -> None:
    """After a ping, or after a reset, statements are given up after a second."""
    session = opened()
    getattr(session, first)()
    assert ask(session, "SELECT SLEEP(1.3)") == 0
