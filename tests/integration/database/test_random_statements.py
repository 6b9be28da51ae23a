"""Random bodies from a grammar of statements that linger, on a real server: a slot that is given back is free.

The judge is the server's own list of threads, not `MAX_USER_CONNECTIONS`: on MariaDB a reset takes a session out of
that count. The environment variables LINGERING_BODIES and LINGERING_SEED set how many bodies, and which.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import warnings
from typing import TYPE_CHECKING

import pymysql
import pytest
from aiomysql import SSCursor as AsyncSSCursor
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from connection_governor.database.fence import Fence
from connection_governor.mysql.async_session import AsyncFencedConnection
from connection_governor.mysql.close import CLOSE_SECONDS
from tests.support.database import WORKER, Opener, ask, opener_for

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.database.target import Target
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

BODIES = int(os.environ.get("LINGERING_BODIES", "40"))
SEED = int(os.environ.get("LINGERING_SEED", "7"))
ROWS = 20_000
FENCE = Fence(idle_seconds=1, statement_seconds=2.0, write_seconds=1)
GONE_MS = 30  # the server takes a session that has ended from its list a moment later
QUESTIONS = 100  # that long at least on a busy machine, by what else the server can do meanwhile

GRAMMAR: dict[str, list[str]] = {
    "<body>": ["<steps>", "<steps>", "<steps> @streaming", "<steps> @interrupted"],
    "<steps>": ["<step>", "<step>;;<step>", "<step>;;<step>;;<step>"],
    "<step>": ["<read>", "<write>", "<returning>", "<call>", "<several>", "<wrong>", "<transaction>", "<lock>"],
    "<read>": [
        "SELECT <n>",
        "SELECT SLEEP(0.0<n>)",
        "SELECT REPEAT('x', 2000) FROM seq_1_to_<n>000",
        "SELECT writes()",
    ],
    "<write>": ["UPDATE pile SET pieces = pieces + 1", "DELETE FROM pile", "UPDATE pile SET pieces = 0 WHERE id < <n>"],
    "<returning>": [
        "DELETE FROM pile RETURNING id",
        "INSERT INTO copies SELECT seq, 0 FROM seq_1_to_<n>000 RETURNING id",
    ],
    "<call>": ["CALL lingers(<n>)", "CALL lingers(0)", "CALL fails()"],
    "<several>": ["<read>; <read>", "<read>; <write>", "<write>; <read>; <read>"],
    "<wrong>": ["SELECT * FROM nowhere", "INSERT INTO pile VALUES (1, 1), (1, 1)", "SELEC"],
    "<transaction>": ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "SET autocommit = <bit>"],
    "<lock>": ["SELECT GET_LOCK('one', 0)", "SELECT id FROM pile WHERE id < <n> FOR UPDATE"],
    "<n>": ["1", "3", "5", "9"],
    "<bit>": ["0", "1"],
}


MYSQL_GRAMMAR = GRAMMAR | {"<step>": [step for step in GRAMMAR["<step>"] if step != "<returning>"]}


def sentence(draw: random.Random, shop: MySQLFamilyServer, symbol: str = "<body>") -> str:
    grammar = GRAMMAR if shop.is_mariadb else MYSQL_GRAMMAR  # MySQL has no RETURNING
    text = draw.choice(grammar[symbol])
    for inner in grammar:
        while inner in text:
            text = text.replace(inner, sentence(draw, shop, inner), 1)
    return text


@pytest.fixture(scope="module")
def pile(shop: MySQLFamilyServer) -> None:
    """Make a table whose changes take a while to undo, and routines that linger."""
    shop.execute(
        "DROP TABLE IF EXISTS shop.copies",
        "CREATE TABLE shop.copies (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "DROP TABLE IF EXISTS shop.pile",
        "CREATE TABLE shop.pile (id INT PRIMARY KEY, pieces INT) ENGINE=InnoDB",
        "DROP PROCEDURE IF EXISTS shop.lingers",
        "CREATE PROCEDURE shop.lingers(turns INT) BEGIN SELECT 1; SELECT BENCHMARK(turns * 100000, SHA2(1, 256));"
        " UPDATE pile SET pieces = 7; SELECT 2; END",
        "DROP PROCEDURE IF EXISTS shop.fails",
        "CREATE PROCEDURE shop.fails() BEGIN UPDATE pile SET pieces = 8; SIGNAL SQLSTATE '45000'; END",
        "DROP FUNCTION IF EXISTS shop.writes",
        "CREATE FUNCTION shop.writes() RETURNS INT DETERMINISTIC MODIFIES SQL DATA "
        " BEGIN UPDATE pile SET pieces = 9; RETURN 1; END",
    )


@pytest.fixture(autouse=True)
def filled(pile: None, shop: MySQLFamilyServer) -> None:
    shop.execute("USE shop", "TRUNCATE pile", f"INSERT INTO pile SELECT seq, 0 FROM seq_1_to_{ROWS}", "TRUNCATE copies")


class Tally:
    """What became of the sessions."""

    def __init__(self) -> None:
        self.given_back = self.left_to_expire = self.still_there = 0

    def settle(self, root: Connection[Cursor], body: str, connection_id: int, *, may_linger: bool) -> None:
        """Judge the end of a session by the server's list of threads."""
        if may_linger:
            self.left_to_expire += 1
            self.still_there += at_work(root, connection_id)
            return
        self.given_back += 1
        until, asked = time.monotonic() + GONE_MS / 1_000, 0
        while at_work(root, connection_id):
            asked += 1
            in_time = time.monotonic() < until or asked < QUESTIONS
            assert in_time, f"given back while MySQL is at work: {body} (seed {SEED})"


def at_work(root: Connection[Cursor], connection_id: int) -> bool:
    """Return whether the server has a thread for the session: also one that is rolling back, or has no socket."""
    query = "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_id = %s"
    return bool(ask(root, query, connection_id))


def run_steps(session: FencedConnection, body: str) -> None:
    text, _, ending = body.partition(" @")
    *steps, last = text.split(";;")
    for step in steps:
        with contextlib.suppress(pymysql.err.MySQLError):
            session.query(step)
    with contextlib.suppress(pymysql.err.MySQLError):
        if ending == "streaming":
            cursor = session.cursor(SSCursor)
            cursor.execute(last)
            cursor.fetchone()
        elif ending == "interrupted":
            session._execute_command(3, last)
        else:
            session.query(last)


async def run_steps_async(session: AsyncFencedConnection, body: str) -> None:
    text, _, ending = body.partition(" @")
    *steps, last = text.split(";;")
    for step in steps:
        with contextlib.suppress(pymysql.err.MySQLError):
            await session.query(step)
    with contextlib.suppress(pymysql.err.MySQLError, TimeoutError):
        if ending == "streaming":
            cursor = await session.cursor(AsyncSSCursor)
            try:
                await cursor.execute(last)
                await cursor.fetchone()
            finally:
                cursor._connection = None  # closing it would read to the end
        elif ending == "interrupted":
            async with asyncio.timeout(0.003):
                await session.query(last)
        else:
            await session.query(last)


@pytest.mark.filterwarnings("ignore:Previous unbuffered:UserWarning")
def test_a_slot_that_is_released_is_free(opened: Opener, shop: MySQLFamilyServer, root: Connection[Cursor]) -> None:
    """The next worker meets 1226, because MySQL is still at work for the last one."""
    draw, tally = random.Random(SEED), Tally()
    for number in range(BODIES):
        body = sentence(draw, shop)
        session = opened(FENCE, client_flag=CLIENT.MULTI_STATEMENTS)
        run_steps(session, body)
        session.close()
        tally.settle(root, body, session.thread_id(), may_linger=session.may_linger)
        if number % 10 == 0:
            free(shop)
    assert tally.given_back > BODIES / 2, "what is left to expire is lost to everybody for so long"
    assert tally.left_to_expire


@pytest.mark.filterwarnings("ignore:Previous unbuffered:UserWarning")
def test_an_async_slot_that_is_released_is_free(
    target: Target, shop: MySQLFamilyServer, root: Connection[Cursor]
) -> None:
    """The same for asyncio."""
    draw, tally = random.Random(SEED + 1), Tally()
    opener = opener_for(target, WORKER)

    async def one(body: str) -> None:
        session = AsyncFencedConnection(opener, FENCE, "", None)
        await session.open()
        await run_steps_async(session, body)
        await session.take_leave()
        await asyncio.sleep(0)
        tally.settle(root, body, session.thread_id(), may_linger=session.may_linger)

    for number in range(BODIES):
        asyncio.run(one(sentence(draw, shop)))
        if number % 10 == 0:
            free(shop)
    assert tally.given_back > BODIES / 2
    assert tally.left_to_expire


def test_kept_sessions_answer_their_own_questions(opened: Opener, shop: MySQLFamilyServer) -> None:
    """What one body left in the session reaches the next, whatever it was."""
    draw = random.Random(SEED + 2)
    kept = 0
    session = opened(FENCE, client_flag=CLIENT.MULTI_STATEMENTS)
    for number in range(BODIES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            run_steps(session, sentence(draw, shop))
        try:
            session.reset()
        except pymysql.err.Error:
            session.close()
            free(shop)
            session = opened(FENCE, client_flag=CLIENT.MULTI_STATEMENTS)
            continue
        kept += 1
        assert session.is_alive()
        assert ask(session, f"SELECT 'body {number}'") == f"body {number}"
        session.commit()
    assert kept > BODIES / 3


def free(shop: MySQLFamilyServer) -> None:
    """Wait for what lingers, so that the server does not run out of connections; fill the table again."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with shop.root() as root:
            query = "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s"
            if not ask(root, query, WORKER.username):
                break
        time.sleep(CLOSE_SECONDS)
    shop.execute(f"INSERT IGNORE INTO shop.pile SELECT seq, 0 FROM shop.seq_1_to_{ROWS}")
