"""asyncio and SQLAlchemy on a real MariaDB: the same lease, the same fence, the same end."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from aiomysql import SSCursor
from pymysql.constants import CLIENT, CR
from sqlalchemy import select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from connection_governor.client.aio import AsyncGovernor
from connection_governor.client.lease_file import LeaseFile
from connection_governor.client.sqlalchemy import governed_engine, invocation
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.errors import InvalidRequest, LeaseLost, NoConnectionsLeft
from connection_governor.extension import NotedProcess, connections
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.processes import free_port
from tests.support.database import SHORT, SLACK_S, WORKER, ask, governor_on, lease_ids, stopped
from tests.support.faulty_store import LOST, FaultyStore
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor
    from sqlalchemy import Engine

    from connection_governor.client.governor import Governor
    from connection_governor.mysql.async_session import AsyncFencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

BUDGET = 5
CROWD = Login("crowd", "pässwörd €")


@pytest.fixture
def store() -> FaultyStore:
    """Return a budget of five."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target, shop: MySQLFamilyServer) -> Governor:
    """Return a governor whose user may have five sessions, one too many is an error."""
    shop.create_user(CROWD.username, CROWD.password, max_user_connections=BUDGET, grants=["ALL ON shop.*"])
    return governor_on(store, target, credentials=CROWD, keep_seconds=0)


@pytest.fixture
def engine(governor: Governor) -> Iterator[Engine]:
    """Yield a governed engine."""
    engine = governed_engine(governor)
    yield engine
    engine.dispose()


def all_gone(root: Connection[Cursor], *, within: float = 0.2) -> bool:
    """Return whether none of the user's sessions is left; a closed one is listed for some milliseconds more."""
    until = time.monotonic() + within
    while ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = 'crowd'"):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


async def value(connection: Any, query: str) -> Any:  # noqa: ANN401 - aiomysql has no types
    """Return the only value of the first row."""
    async with connection.cursor() as cursor:
        await cursor.execute(query)
        return (await cursor.fetchone())[0]


def test_an_async_session_is_behind_the_fence(
    governor: Governor, store: FaultyStore, root: Connection[Cursor], shop: MySQLFamilyServer
) -> None:
    """An asyncio worker's session outlives its lease, or no operator can match it to a worker."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            for name, limit in SHORT.session_settings(is_mariadb=shop.is_mariadb).items():
                assert float(await value(connection, f"SELECT @@SESSION.{name}")) == limit
            assert await value(connection, "SELECT DATABASE()") == "shop"
            assert await value(connection, "SELECT '€'") == "€"
            assert await value(connection, "SELECT @@autocommit") == 0
            named = ask(
                root,
                "SELECT attr_value FROM performance_schema.session_connect_attrs"
                " WHERE processlist_id = %s AND attr_name = 'program_name'",
                connection.thread_id(),
            )
            assert connection.lease is not None
            assert named == connection.lease.session_name
            assert lease_ids(store) == {connection.lease.lease_id}

    asyncio.run(work())
    assert lease_ids(store) == set()
    assert all_gone(root)


def test_twenty_tasks_share_five_connections(governor: Governor, store: FaultyStore) -> None:
    """Promise 5 for asyncio. The server itself refuses the sixth session."""
    held, peak = 0, 0

    async def one(governed: AsyncGovernor) -> int:
        nonlocal held, peak
        async with governed.connection(timeout=20, context=Invocation(25)) as connection:
            held += 1
            peak = max(peak, held)
            answer = await value(connection, "SELECT SLEEP(0.05) + 1")
            held -= 1
        return int(answer)

    async def crowd() -> list[int]:
        governed = AsyncGovernor(governor)
        return await asyncio.gather(*(one(governed) for _ in range(20)))

    assert asyncio.run(crowd()) == [1] * 20
    assert peak <= BUDGET
    assert lease_ids(store) == set()


def test_waiting_does_not_block_the_loop(governor: Governor, store: FaultyStore) -> None:
    """One task that waits for a connection stops all the others."""
    leases = [governor.acquire(lease_ms=30_000) for _ in range(BUDGET)]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def work() -> None:
        ticking = asyncio.create_task(tick())
        with pytest.raises(NoConnectionsLeft):
            await AsyncGovernor(governor).acquire(timeout=1.0)
        ticking.cancel()

    asyncio.run(work())
    assert ticks > 30
    assert lease_ids(store) == {lease.lease_id for lease in leases}


@pytest.mark.parametrize("error", [ValueError("bad request"), asyncio.CancelledError()])
def test_an_async_bodys_error_gives_the_connection_back(
    governor: Governor, store: FaultyStore, root: Connection[Cursor], error: BaseException
) -> None:
    """Each failed request costs a connection until its lease ends."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            await connection.query("UPDATE stock SET pieces = 99 WHERE id = 1")
            raise error

    with pytest.raises(type(error)):
        asyncio.run(work())
    assert lease_ids(store) == set()
    assert all_gone(root)
    assert ask(root, "SELECT pieces FROM shop.stock WHERE id = 1") == 10


def test_a_cancelled_query_keeps_its_lease_while_mysql_works_on(
    governor: Governor, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """A time-out of `asyncio.timeout` frees the slot while the server still counts the session."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            async with asyncio.timeout(0.1):
                await connection.query("SELECT SLEEP(0.4)")

    with pytest.raises(TimeoutError):
        asyncio.run(work())
    assert len(lease_ids(store)) == 1
    assert not all_gone(root, within=0)
    assert all_gone(root, within=2)


def test_a_query_of_another_task_does_not_hide_the_bodys_error(
    governor: Governor, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """`gather` with a failing sibling ends in aiomysql's RuntimeError, and the socket and its lease leak."""
    connections: list[AsyncFencedConnection] = []

    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise ValueError("bad request")

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            connections.append(connection)
            await asyncio.gather(connection.query("SELECT SLEEP(0.4)"), fails())

    with pytest.raises(ValueError, match="bad request"):
        asyncio.run(work())
    assert connections[0].closed
    assert connections[0].may_linger
    assert len(lease_ids(store)) == 1  # MySQL works on
    assert all_gone(root, within=2)


@pytest.mark.parametrize("query", ["SELECT 1", "UPDATE stock SET pieces = 99 WHERE id = 1"])
def test_a_loop_that_ends_during_the_end_of_a_body_releases(
    governor: Governor, store: FaultyStore, root: Connection[Cursor], query: str
) -> None:
    """`asyncio.run` cancels what is under way when its main task is done, the release with it."""

    async def one(inside: asyncio.Event) -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            await connection.query(query)
            inside.set()

    async def work(steps: int) -> None:
        inside = asyncio.Event()
        task = asyncio.create_task(one(inside))
        await inside.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()

    for steps in range(BUDGET - 1):
        asyncio.run(work(steps))
        # in a transaction that was cut off MySQL may still be at work, so that lease may be left to expire
        assert lease_ids(store) == set() or query.startswith("UPDATE")
    assert all_gone(root)


def test_a_cancelled_release_is_carried_out(governor: Governor, store: FaultyStore) -> None:
    """A lease whose thread had not begun when the loop ended is never released."""

    async def one(inside: asyncio.Event) -> None:
        async with AsyncGovernor(governor).lease(context=Invocation()):
            inside.set()

    async def work() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        inside = asyncio.Event()
        task = asyncio.create_task(one(inside))
        await inside.wait()
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.2)  # the only thread
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(work())
    assert lease_ids(store) == set()


def test_the_extension_hears_of_an_async_session(governor: Governor, tmp_path: Path) -> None:
    """After a crash its lease is released while MySQL still works on its statement."""
    notes = LeaseFile(str(tmp_path))
    governor.lease_client._lease_file = governor.sessions._lease_file = notes

    def noted() -> tuple[int, int]:
        (path,) = tmp_path.iterdir()
        process = NotedProcess(str(path))
        (note,) = process.notes()
        process.close()
        return note.ports

    async def work() -> tuple[int, int]:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            assert noted() == (connection.local_port, connection.port)
            assert noted() in (connections() or ())
            return noted()

    assert asyncio.run(work()) not in (connections() or ())


def test_a_server_that_cannot_be_reached_is_named(store: FaultyStore) -> None:
    """A worker's `except OperationalError` is bypassed by an AttributeError of this package."""
    target = Target("127.0.0.1", free_port(), "shop", tls="off", connect_seconds=0.3)
    governor = governor_on(store, target, keep_seconds=0)

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()):
            pass

    with pytest.raises(pymysql.err.OperationalError) as lost:
        asyncio.run(work())
    assert lost.value.args[0] == CR.CR_CONN_HOST_ERROR
    assert lease_ids(store) == set()


@pytest.mark.parametrize("command", ["commit", "rollback", "begin", "ping", "show_warnings", "query", "rows"])
def test_no_command_waits_for_a_stopped_server_for_ever(
    governor: Governor, store: FaultyStore, shop: MySQLFamilyServer, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A COMMIT at a stuck server takes the whole invocation along, and says nothing."""
    monkeypatch.setattr(Fence, "read_seconds", 0.3)

    async def rows(connection: AsyncFencedConnection) -> None:
        cursor = await connection.cursor(SSCursor)
        try:
            await cursor.execute("SELECT SLEEP(0.01), REPEAT('x', 20000) FROM seq_1_to_100")
            with stopped(shop):
                await cursor.fetchall()
        finally:
            cursor._connection = None  # closing it would read to the end

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            if command == "rows":
                await rows(connection)
            with stopped(shop):
                await (connection.query("SELECT 1") if command == "query" else getattr(connection, command)())

    since = time.monotonic()
    with pytest.raises(pymysql.err.OperationalError) as lost:
        asyncio.run(work())
    assert lost.value.args[0] == CR.CR_SERVER_LOST
    assert time.monotonic() - since < 0.3 + SLACK_S
    assert len(lease_ids(store)) == 1


def test_a_session_that_was_killed_gives_its_lease_back(
    governor: Governor, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """After a failover every asyncio worker leaves a lease to expire, although its session is gone."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            root.query(f"KILL {connection.thread_id()}")
            await asyncio.sleep(0.1)
            await connection.query("SELECT 1")

    with pytest.raises(pymysql.err.OperationalError):
        asyncio.run(work())
    assert lease_ids(store) == set()


def test_what_was_answered_counts_as_answered(governor: Governor, store: FaultyStore) -> None:
    """A healthy session is taken for one that was cut off, and is closed without COM_QUIT."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            await connection.query("DROP PROCEDURE IF EXISTS two_results")
            await connection.query("CREATE PROCEDURE two_results() BEGIN SELECT 1; SELECT * FROM nowhere; END")
            await connection.begin()
            await connection.ping()
            await connection.show_warnings()
            await connection.set_charset("utf8mb4")
            await connection.select_db("shop")
            await connection.rollback()
            await connection.autocommit(True)
            with pytest.raises(pymysql.err.ProgrammingError):
                await connection.query("SELECT * FROM nowhere")
            await connection.query("CALL two_results()")
            with pytest.raises(pymysql.err.ProgrammingError):
                await connection.query("SELECT 1")
            async with connection.cursor(SSCursor) as cursor:
                await cursor.execute("SELECT seq FROM seq_1_to_10")
                assert len(await cursor.fetchall()) == 10
            assert connection._state.is_ready
            ended.append(connection)

    ended: list[AsyncFencedConnection] = []
    asyncio.run(work())
    assert ended[0].let_go
    assert lease_ids(store) == set()


def test_a_lease_that_comes_after_its_task_is_gone_is_released(governor: Governor, store: FaultyStore) -> None:
    """Every cancelled wait may leave a lease without a holder."""
    began, go_on = asyncio.Event(), threading.Event()
    loop_of: list[asyncio.AbstractEventLoop] = []

    def rival() -> None:
        loop_of[0].call_soon_threadsafe(began.set)
        go_on.wait(5)

    async def work() -> None:
        loop_of.append(asyncio.get_running_loop())
        store.before["grant"] = rival
        task = asyncio.create_task(AsyncGovernor(governor).acquire())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(work())  # ends when its threads have
    assert "grant" in store.methods()
    assert lease_ids(store) == set()


def test_a_refused_sign_in_gives_the_async_lease_back(store: FaultyStore, target: Target) -> None:
    """A wrong password empties the budget."""
    governor = governor_on(store, target, credentials=Login("nobody", "x"), keep_seconds=0)

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()):
            pass

    with pytest.raises(pymysql.err.OperationalError):
        asyncio.run(work())
    assert lease_ids(store) == set()


def test_an_async_worker_may_choose_to_connect_without_a_lease(store: FaultyStore, target: Target) -> None:
    """What `on_unavailable` promises holds for some drivers only."""
    store.plan("grant", *[LOST] * 50)
    governor = governor_on(store, target, keep_seconds=0, on_unavailable="open")

    async def work() -> object:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            assert connection.lease is None
            await connection.query("SELECT 7")
            return connection.usable_until_ms

    assert asyncio.run(work()) is None
    assert lease_ids(store) == set()


def test_an_async_statement_past_the_lease_is_refused(governor: Governor) -> None:
    """A body that outlives its lease continues although its slot may be another's."""

    async def work() -> None:
        async with AsyncGovernor(governor).connection(context=Invocation()) as connection:
            connection.usable_until_ms = SYSTEM_CLOCK.now_ms() - 1
            await connection.query("SELECT 1")

    with pytest.raises(LeaseLost):
        asyncio.run(work())


class Base(DeclarativeBase):
    """The tests' tables."""


class Stock(Base):
    """What the shop has."""

    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    pieces: Mapped[int]


def test_an_orm_session_works_and_releases(engine: Engine, store: FaultyStore, root: Connection[Cursor]) -> None:
    """Workers that use an ORM have to choose between it and the governor."""
    with invocation(Invocation()), Session(engine) as session:
        assert lease_ids(store) == set()
        stock = session.scalars(select(Stock).where(Stock.id == 2)).one()
        assert stock.pieces == 20
        assert len(lease_ids(store)) == 1
        stock.pieces = 21
        session.commit()
        assert lease_ids(store) == set()
        stock.pieces = 20
        session.commit()
    assert lease_ids(store) == set()
    assert all_gone(root)


def test_an_orm_session_is_behind_the_fence(engine: Engine, shop: MySQLFamilyServer) -> None:
    """A frozen ORM worker's session outlives its lease."""
    with invocation(Invocation()), engine.connect() as connection:
        for name, limit in SHORT.session_settings(is_mariadb=shop.is_mariadb).items():
            assert float(connection.execute(text(f"SELECT @@SESSION.{name}")).scalar_one()) == limit


def test_an_orm_error_rolls_back_and_releases(engine: Engine, store: FaultyStore, root: Connection[Cursor]) -> None:
    """Each failed request costs a connection, or writes half of what it should."""
    with pytest.raises(ValueError, match="bad request"), invocation(Invocation()), Session(engine) as session:  # noqa: PT012
        session.execute(text("UPDATE stock SET pieces = 99 WHERE id = 1"))
        raise ValueError("bad request")
    assert lease_ids(store) == set()
    assert all_gone(root)
    assert ask(root, "SELECT pieces FROM shop.stock WHERE id = 1") == 10


def test_a_lease_lost_in_the_middle_of_an_orm_session_is_released(
    engine: Engine, store: FaultyStore, root: Connection[Cursor]
) -> None:
    """SQLAlchemy rolls back before it closes; the guard refuses that, and it never closes."""
    with pytest.raises(LeaseLost), invocation(Invocation()), Session(engine) as session:  # noqa: PT012 - as above
        session.execute(text("UPDATE stock SET pieces = 99 WHERE id = 1"))
        session.connection().connection.dbapi_connection.usable_until_ms = 1  # type: ignore[union-attr]
        session.execute(text("SELECT 1"))
    assert lease_ids(store) == set()
    assert all_gone(root)
    assert ask(root, "SELECT pieces FROM shop.stock WHERE id = 1") == 10


def test_an_unchanged_row_that_is_saved_again_counts_as_found(engine: Engine) -> None:
    """SQLAlchemy raises StaleDataError for it, and Django's `save()` inserts it a second time: 1062."""
    with invocation(Invocation(5)), Session(engine) as session:
        stock = session.get_one(Stock, 1)
        session.execute(
            update(Stock).where(Stock.id == 1).values(pieces=11).execution_options(synchronize_session=False)
        )
        stock.pieces = 11  # the session believes 10, the row says 11 by now: matched, and not changed
        session.flush()
        session.rollback()
        assert session.execute(update(Stock).values(pieces=Stock.pieces)).rowcount == 2  # type: ignore[attr-defined]
        session.rollback()


def test_connect_args_reach_the_driver_or_are_refused(governor: Governor, store: FaultyStore) -> None:
    """Options are ignored, and nothing says so."""
    options: dict[str, Any] = {"charset": "latin1", "time_zone": "+09:00", "autocommit": True}
    engine = governed_engine(governor, connect_args=options)
    with invocation(Invocation(5)), engine.connect() as connection:
        seen = connection.execute(text("SELECT @@character_set_client, @@time_zone, @@autocommit")).one()
        assert tuple(seen) == ("latin1", "+09:00", 1)
    store.calls.clear()
    for name in ("init_command", "read_timeout", "unix_socket", "host"):
        refused = governed_engine(governor, connect_args={name: "SET @a = 1"})
        with pytest.raises(InvalidRequest) as raised:
            refused.connect()
        assert raised.value.field == name
    assert store.calls == []


def test_a_drivers_options_hold_after_a_reset(store: FaultyStore, target: Target) -> None:
    """A kept connection answers the next invocation in another form than the first."""
    governor = governor_on(store, target)
    options: dict[str, Any] = {"cursorclass": pymysql.cursors.DictCursor, "time_zone": "+09:00"}
    options["client_flag"] = CLIENT.FOUND_ROWS
    opened = []
    for _ in range(2):
        with governor.connection(context=Invocation(5), **options) as connection, connection.cursor() as cursor:
            opened.append(connection)
            cursor.execute("SELECT @@time_zone AS zone")
            assert list(cursor.fetchall()) == [{"zone": "+09:00"}]
            assert cursor.execute("UPDATE stock SET pieces = pieces WHERE id = 1") == 1
            cursor.execute("SET time_zone = '+01:00'")
    assert opened[0] is opened[1]
    with governor.connection(context=Invocation(5)) as plain:
        assert plain is not opened[0]
        assert ask(plain, "SELECT @@time_zone") != "+09:00"
    governor.close()


def test_an_engine_never_opens_more_than_the_budget(engine: Engine, store: FaultyStore) -> None:
    """The pool's overflow, which is why the engine has none."""
    with invocation(Invocation()):
        connections = [engine.connect() for _ in range(BUDGET)]
        with pytest.raises(NoConnectionsLeft):
            engine.connect()
        for connection in connections:
            connection.close()
    assert lease_ids(store) == set()


def test_the_fence_as_data_for_any_other_driver(
    governor: Governor, store: FaultyStore, target: Target, shop: MySQLFamilyServer
) -> None:
    """Workers with a driver of their own: what they set must be what the lease counts on."""
    with governor.lease(context=Invocation()) as lease:
        plain = pymysql.connect(
            host=target.host,
            port=target.port,
            user=WORKER.username,
            password=WORKER.password.encode(),
            ssl_ca=target.tls_ca,
            program_name=lease.session_name,
        )
        with closing(plain), plain.cursor() as cursor:
            for name, limit in SHORT.session_settings(is_mariadb=shop.is_mariadb).items():
                cursor.execute(f"SET SESSION {name} = {limit}")
                cursor.execute(f"SELECT @@SESSION.{name}")
                assert cursor.fetchone() == (pytest.approx(limit),)
    assert lease_ids(store) == set()
