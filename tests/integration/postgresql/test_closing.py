"""The end of a PostgreSQL session: its slot is free when the lease is released, however the session ended."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.errors import LeaseLost
from connection_governor.system import SYSTEM_CLOCK
from tests.support.postgresql import NAME, opener_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor.postgresql.session import FencedConnection
    from harness.stack.postgresql import PrivatePostgreSQL

CYCLES = int(os.environ.get("SLOT_CYCLES", "100"))  # 10000: some ten minutes
LONG = Fence(idle_seconds=60, statement_seconds=60)


class InterruptionError(Exception):
    """What a signal's handler raises in the middle of a statement."""


@pytest.fixture
def quick(shop: PrivatePostgreSQL, target: Target) -> Iterator[Target]:
    """Let a role in without TLS and password: nothing in its opening gives a slot the time to become free."""
    access = shop._data / "pg_hba.conf"
    usual = access.read_text()
    access.write_text(f"hostnossl all quick 127.0.0.1/32 trust\n{usual}")
    shop.execute("SELECT pg_reload_conf()")
    yield Target(target.host, target.port, "shop", tls="off")
    access.write_text(usual)
    shop.execute("SELECT pg_reload_conf()")


@pytest.fixture
def full(shop: PrivatePostgreSQL) -> Iterator[None]:
    """Take all of the server's connections but one, the worker's."""
    shop.create_user("crowd", "secret", database="shop")
    where = {"host": shop.host, "port": shop.port, "dbname": "shop", "user": "crowd", "password": "secret"}
    with contextlib.ExitStack() as sessions:
        for _ in range(shop.max_connections - 1):
            sessions.enter_context(contextlib.closing(psycopg.connect(**where, sslmode="require")))  # type: ignore[arg-type]
        yield


@pytest.mark.parametrize("statement", ["", "UPDATE stock SET pieces = pieces"])
@pytest.mark.parametrize("limit", ["role", "server"])
def test_the_slot_is_free_once_a_session_has_closed(
    request: pytest.FixtureRequest, shop: PrivatePostgreSQL, quick: Target, limit: str, statement: str
) -> None:
    """The next holder of the lease would be refused by the server that the budget is for."""
    shop.create_user("quick", "secret", max_user_connections=1 if limit == "role" else None, database="shop")
    shop.execute("GRANT ALL ON stock TO quick", database="shop")
    if limit == "server":
        request.getfixturevalue("full")
    opener = opener_of(quick, Login("quick", "secret"))
    for _ in range(CYCLES):
        session = opener.open(LONG, NAME, None)
        if statement:
            session.execute(statement.encode())
        session.close()
        assert session.let_go


def test_a_statement_that_was_interrupted_ends_with_its_session(
    opened: Callable[..., FencedConnection], listed: Callable[[], int]
) -> None:
    """A time-out of the caller's own would leave its statement at work under the next holder's lease."""
    session = opened(LONG)

    def interrupt(*_: object) -> None:
        raise InterruptionError

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(InterruptionError):
            session.execute("SELECT pg_sleep(100)")
    finally:
        signal.signal(signal.SIGALRM, earlier)
    with pytest.raises(psycopg.Error):
        session.reset()
    assert session.closed
    assert session.may_linger or listed() == 0
    until(lambda: listed() == 0, 1.0)


def test_a_silent_server_is_given_up(
    opened: Callable[..., FencedConnection], root: psycopg.Connection[Any], listed: Callable[[], int]
) -> None:
    """A worker would wait for a server that has stopped until Lambda ends its invocation."""
    fence = Fence(idle_seconds=60, statement_seconds=0.2, write_seconds=1)
    session = opened(fence)
    os.kill(session.info.backend_pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="in time"):
            session.execute("SELECT 1")
        assert time.monotonic() - began < fence.read_seconds + 1
        session.close()
        assert session.may_linger
    finally:
        os.kill(session.info.backend_pid if not session.closed else _only_worker(root), signal.SIGCONT)
    until(lambda: listed() == 0)


def _only_worker(root: psycopg.Connection[Any]) -> int:
    (pid,) = root.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'worker'").fetchone() or (0,)
    return int(pid)


def test_a_late_rollback_closes_the_session(opened: Callable[..., FencedConnection], listed: Callable[[], int]) -> None:
    """A pool rolls back before it closes: it would leave a session open whose lease is about to expire."""
    session = opened(LONG)
    session.execute("UPDATE stock SET pieces = 99 WHERE id = 1")
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
    with pytest.raises(LeaseLost):
        session.commit()
    session.rollback()
    assert session.closed
    assert (session.let_go, listed()) == (True, 0)


def test_an_answer_that_began_in_time_is_read_to_its_end(opened: Callable[..., FencedConnection]) -> None:
    """A long result would break off in the middle."""
    session = opened(LONG, autocommit=True)
    stream = session.cursor().stream("SELECT generate_series(1, 1000)")
    next(stream)
    session.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
    assert sum(1 for _ in stream) == 999
    with pytest.raises(LeaseLost):
        session.execute("SELECT 1")


@pytest.mark.parametrize("tls", ["verify", "off"])
def test_a_forked_child_leaves_its_parents_session_alone(shop: PrivatePostgreSQL, target: Target, tls: str) -> None:
    """Each process of a pool would end its parent's session, or mix its statements with the parent's."""
    shop.create_user("parent", "secret", require_ssl=tls != "off", database="shop")
    where = Target(target.host, target.port, "shop", tls=tls, tls_ca=target.tls_ca)
    session = opener_of(where, Login("parent", "secret")).open(LONG, NAME, None)
    child = os.fork()
    if not child:
        status = 1
        try:
            with contextlib.suppress(psycopg.InterfaceError):
                session.execute("SELECT 1")
                os._exit(2)
            session.close()
            status = 0 if session.closed else 3
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert session.execute("SELECT 1").fetchone() == (1,)
    session.close()
    assert session.let_go


def test_a_close_can_be_repeated_and_reports_once(opened: Callable[..., FencedConnection]) -> None:
    """A lease would be released twice."""
    session, reported = opened(LONG), list[str]()
    session.on_close = lambda: reported.append("closed")
    session.close()
    session.close()
    assert (reported, session.let_go, session.local_port) == (["closed"], True, 0)


def test_no_descriptor_is_left_behind(target: Target) -> None:
    """An environment that lives for hours would run out of descriptors, and its server out of slots."""
    opener = opener_of(target)
    before = sorted(Path("/proc/self/fd").iterdir())
    for usable_until_ms in (None, SYSTEM_CLOCK.now_ms() - 1):
        with contextlib.suppress(LeaseLost):
            opener.open(LONG, NAME, usable_until_ms).close()
    with contextlib.suppress(psycopg.OperationalError):
        opener_of(target, Login("worker", "wrong")).open(LONG, NAME, None)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_another_threads_statement_ends_with_the_session(opened: Callable[..., FencedConnection]) -> None:
    """A worker's shutdown would wait for a statement of a thread that is forgotten."""
    session = opened(LONG)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            session.execute("SELECT pg_sleep(30)")
        except psycopg.Error as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: session.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
    session.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(failed) == 1
