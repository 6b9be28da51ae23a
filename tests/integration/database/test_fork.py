"""A forked child and its parent's sessions, on a real MariaDB: whatever the child does, the parent notices nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.client.aio import AsyncGovernor
from connection_governor.client.lease_file import LeaseFile
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import KEEP_SECONDS, ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connection_governor.client.governor import Governor
    from connection_governor.database.target import Target


class LeavesError(Exception):
    """The child leaves its copy of the parent's body."""


@pytest.fixture
def store() -> FaultyStore:
    """Return the leases; a child's requests to its copy are counted there."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 20)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target, tmp_path: Path) -> Governor:
    """Return a governor that keeps its connection, and writes a lease file."""
    governor = governor_on(store, target)
    governor.lease_client._lease_file = governor.sessions._lease_file = LeaseFile(str(tmp_path))
    return governor


def in_child(act: Callable[[], object]) -> None:
    """Fork, act in the child and end it as an interpreter ends; fail where the child does."""
    child = os.fork()
    if not child:
        end(act)
    assert os.waitpid(child, 0)[1] == 0


def end(act: Callable[[], object]) -> None:
    """Act, clean up, and end this process."""
    status = 1
    try:
        act()
        gc.collect()
        status = 0
    except BaseException:  # noqa: BLE001 - it must not become a second run of the tests
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def written(folder: Path) -> dict[str, bytes]:
    """Return the lease files of this process."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith(f"{os.getpid()}-")}


def test_a_childs_close_leaves_the_kept_session_alone(governor: Governor, store: FaultyStore, tmp_path: Path) -> None:
    """Each worker process of a pool ends its parent's connection and releases its lease."""
    with governor.connection(context=Invocation(5)) as connection:
        first = connection.thread_id()
    before, calls = written(tmp_path), len(store.calls)

    def child() -> None:
        governor.close()
        connection.close()
        assert len(store.calls) == calls

    in_child(child)
    assert written(tmp_path) == before
    with governor.connection(context=Invocation(5)) as again:
        assert again.thread_id() == first
        assert ask(again, "SELECT 1") == 1
    governor.close()
    assert lease_ids(store) == set()


def test_a_child_opens_a_session_of_its_own(governor: Governor) -> None:
    """Two processes write into one socket, and read each other's rows."""
    with governor.connection(context=Invocation(5)) as connection:
        first = connection.thread_id()

    def child() -> None:
        with governor.connection(context=Invocation(5)) as own:
            assert own.thread_id() != first
            assert ask(own, "SELECT 'child'") == "child"
        governor.close()

    in_child(child)
    with governor.connection(context=Invocation(5)) as again:
        assert again.thread_id() == first
        assert ask(again, "SELECT 'parent'") == "parent"
    governor.close()


@pytest.mark.parametrize("keep_seconds", [0, KEEP_SECONDS])
def test_a_child_that_leaves_the_body_ends_nothing(
    governor: Governor, store: FaultyStore, tmp_path: Path, keep_seconds: int
) -> None:
    """A fork in the middle of a body: the child's clean-up is the end of the parent's transaction."""
    calls = 0
    with suppress(LeavesError), governor.connection(context=Invocation(5), keep_seconds=keep_seconds) as connection:
        connection.begin()
        assert ask(connection, "SELECT 'before'") == "before"
        before, calls = written(tmp_path), len(store.calls)
        child = os.fork()
        if not child:
            with suppress(BaseException):
                raise_unless_refused(connection)
            raise LeavesError
        assert os.waitpid(child, 0)[1] == 0
        assert written(tmp_path) == before
        assert ask(connection, "SELECT 'after'") == "after"
        connection.commit()
    if "child" in locals() and not child:
        end(lambda: check(len(store.calls) == calls))
    governor.close()
    assert lease_ids(store) == set()


def raise_unless_refused(connection: object) -> None:
    """Fail where a child may use its parent's connection."""
    with suppress(pymysql.err.InterfaceError):
        ask(connection, "SELECT 'child'")  # type: ignore[arg-type]
        os._exit(1)


def check(holds: bool) -> None:
    """Assert."""
    assert holds


def test_a_child_that_leaves_the_body_of_a_lease_releases_nothing(governor: Governor, store: FaultyStore) -> None:
    """The parent's connection by another driver loses its lease."""
    calls, child = 0, -1
    with suppress(LeavesError), governor.lease(context=Invocation(5)) as lease:
        calls = len(store.calls)
        child = os.fork()
        if not child:
            raise LeavesError
        assert os.waitpid(child, 0)[1] == 0
        assert lease_ids(store) == {lease.lease_id}
    if not child:
        end(lambda: check(len(store.calls) == calls))
    assert lease_ids(store) == set()


def test_an_async_child_ends_nothing(governor: Governor, store: FaultyStore, tmp_path: Path) -> None:
    """The parent's loop hears nothing of its connection any more, or MySQL hears a goodbye."""

    async def work() -> None:
        child, calls = -1, 0
        with suppress(LeavesError):
            async with AsyncGovernor(governor).connection(context=Invocation(5)) as connection:
                await connection.query("SELECT 1")
                before, calls = written(tmp_path), len(store.calls)
                child = os.fork()
                if not child:
                    raise LeavesError
                assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - nothing else runs here
                assert written(tmp_path) == before
                async with connection.cursor() as cursor:
                    await cursor.execute("SELECT 'after'")
                    assert await cursor.fetchone() == ("after",)
        if not child:  # before asyncio ends the loop, which is the parent's, too
            end(lambda: check(len(store.calls) == calls))

    asyncio.run(work())
    assert lease_ids(store) == set()
