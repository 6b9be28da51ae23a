"""The worker that takes an expired lease over ends the session that still runs under it. On real servers."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from pymysql.constants import ER

from connection_governor.client.aio import AsyncGovernor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import SLACK_S, ask, governor_on, opener_for
from tests.support.faulty_store import FaultyStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.client.governor import Governor
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

BUDGET = 1
PATIENT = Fence(idle_seconds=30, statement_seconds=30)
"""The limits of a session that its lease does not cover: as where MySQL bounds no UPDATE."""

USER, STRANGER = Login("taker", "pw"), Login("stranger", "pw")


@pytest.fixture
def server(database_server: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return a server with a user that has no right but on its schema, and room for one session beyond the budget."""
    database_server.execute(
        "DROP DATABASE IF EXISTS taken",
        "CREATE DATABASE taken",
        "CREATE TABLE taken.stock (pieces INT)",
        "INSERT INTO taken.stock VALUES (1)",
    )
    for user in (USER, STRANGER):
        database_server.create_user(
            user.username, user.password, max_user_connections=BUDGET + 1, grants=["SELECT, UPDATE ON taken.*"]
        )
    return database_server


@pytest.fixture
def target(server: MySQLFamilyServer) -> Target:
    """Return the schema."""
    return Target(server.host, server.port or 0, "taken", tls_ca=str(server.ca_path))


@pytest.fixture
def governor(target: Target) -> Iterator[Governor]:
    """Return a governor with a budget of one connection."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET, skew_ms=0)
    with closing(governor_on(store, target, credentials=USER)) as governor:
        yield governor


class Zombie:
    """A session whose holder is gone, at work on the only row; its lease ends in a second."""

    def __init__(self, governor: Governor, target: Target) -> None:
        self.lease = governor.acquire(lease_ms=1_000)
        self.session = opener_for(target, USER).new_session(PATIENT, self.lease.session_name, None)
        self.session.connect()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        with suppress(pymysql.err.Error):
            self.session.query("UPDATE stock SET pieces = pieces + SLEEP(20)")

    def ended_within(self, seconds: float) -> bool:
        """Return whether the server ends it within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@pytest.fixture
def zombie(governor: Governor, target: Target, server: MySQLFamilyServer) -> Iterator[Zombie]:
    """Start one, and end it after the test."""
    zombie = Zombie(governor, target)
    number = zombie.session.thread_id()
    yield zombie
    with suppress(pymysql.err.Error):
        server.execute(f"KILL {number}")
    zombie.ended_within(20)
    zombie.session.close()


def test_the_taker_ends_the_session_and_works_at_once(governor: Governor, zombie: Zombie) -> None:
    """The zombie holds the row until its statement ends, which on MySQL nothing bounds but an event."""
    with governor.connection(timeout=3) as connection:
        since = time.monotonic()
        connection.query("UPDATE stock SET pieces = 5")
        connection.commit()
        assert time.monotonic() - since < SLACK_S
        assert zombie.ended_within(SLACK_S)
        assert connection.lease is not None
        assert connection.lease.taken_over == (zombie.lease.session_name,)
        assert ask(connection, "SELECT pieces FROM stock") == 5


def test_the_asynchronous_taker_does_so_too(governor: Governor, zombie: Zombie) -> None:
    """As above, for asyncio."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(timeout=3) as connection:
            driver: Any = connection
            await driver.query("UPDATE stock SET pieces = 5")
            await driver.commit()

    asyncio.run(work())
    assert zombie.ended_within(SLACK_S)


def test_without_a_place_of_its_own_the_taker_is_refused(
    governor: Governor, zombie: Zombie, server: MySQLFamilyServer
) -> None:
    """Nothing of ours: it is why the documents advise a limit of one more than the budget."""
    server.execute(f"ALTER USER '{USER.username}'@'%' WITH MAX_USER_CONNECTIONS {BUDGET}")
    with pytest.raises(pymysql.err.OperationalError) as refused, governor.connection(timeout=3):
        pass
    assert refused.value.args[0] == ER.USER_LIMIT_REACHED
    assert not zombie.ended_within(0)


def test_the_body_begins_outside_of_a_transaction(governor: Governor, zombie: Zombie) -> None:
    """The look at the sessions begins one: the body's SET TRANSACTION would fail."""
    with governor.connection(timeout=3) as connection:
        connection.query("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")


def test_nothing_is_asked_where_nothing_was_taken_over(
    governor: Governor, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opening pays for the rare case with a round trip."""
    monkeypatch.setattr(
        "connection_governor.mysql.connect.FencedConnection.end_sessions", lambda *_: pytest.fail("asked")
    )
    with governor.connection(timeout=3) as connection:
        assert ask(connection, "SELECT 1") == 1


def test_only_the_named_sessions_of_the_same_user_end(target: Target) -> None:
    """A worker that can end others' sessions is a way to stop the shop."""
    name = "governor:k3Zq81Bd:orders#0"
    opened: list[FencedConnection] = []
    for user, program_name in ((USER, name), (STRANGER, name)):
        opened.append(open_session(target, user, program_name=program_name))
    with closing(open_session(target, USER, program_name="governor:k3Zq81Be:orders#0")) as taker:
        assert taker.end_sessions(["governor:k3Zq81Bx:orders#0", "') OR 1=1 --"]) == 0
        assert [session.is_alive() for session in opened] == [True, True]
        assert taker.end_sessions([name]) == 1
        assert taker.is_alive()
    assert [session.is_alive() for session in opened] == [False, True]
    for session in opened:
        session.close()
