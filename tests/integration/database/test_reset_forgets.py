"""What a reset forgets by itself, one thing at a time: `docs/kept.md` lists it. On a real server."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.database.credentials import Login
from connection_governor.mysql.connect import open_session
from tests.support.database import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.database.target import Target
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

ALMIGHTY = Login("almighty", "pw")

STATES = {
    "LAST_INSERT_ID": ("SELECT LAST_INSERT_ID(77)", "SELECT LAST_INSERT_ID()"),
    "sql_log_bin": ("SET sql_log_bin = 0", "SELECT @@sql_log_bin"),
    "isolation": ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT @@{isolation}"),
    "insert_id": ("SET insert_id = 500", "SELECT @@insert_id"),
    "pseudo_thread_id": ("SET pseudo_thread_id = 3", "SELECT @@pseudo_thread_id"),
    "foreign_key_checks": ("SET foreign_key_checks = 0", "SELECT @@foreign_key_checks"),
    "character_set_results": ("SET character_set_results = latin1", "SELECT @@character_set_results"),
    "user variable": ("SET @mine = 1", "SELECT @mine"),
}
LOCKS = {
    "FLUSH TABLES WITH READ LOCK": "FLUSH TABLES WITH READ LOCK",
    "FLUSH one table": "FLUSH TABLES stock WITH READ LOCK",
    "an active XA transaction": "XA START 'x'; UPDATE stock SET pieces = pieces + 1",
    "an idle XA transaction": "XA START 'x'; UPDATE stock SET pieces = pieces + 1; XA END 'x'",
}
OF_MYSQL = {"LOCK INSTANCE": "LOCK INSTANCE FOR BACKUP"}
OF_MARIADB = {"BACKUP STAGE": "BACKUP STAGE START; BACKUP STAGE BLOCK_DDL", "BACKUP LOCK": "BACKUP LOCK stock"}


@pytest.fixture(scope="module")
def almighty(shop: MySQLFamilyServer) -> MySQLFamilyServer:
    """Make a user with every right: what it leaves behind is the most that a body can leave."""
    shop.create_user(ALMIGHTY.username, ALMIGHTY.password, grants=["ALL ON *.*"])
    return shop


@pytest.fixture
def session(almighty: MySQLFamilyServer, target: Target) -> Iterator[FencedConnection]:
    """Open a session of that user."""
    with closing(open_session(target, ALMIGHTY)) as opened:
        yield opened


def run(session: FencedConnection, statements: str) -> None:
    for statement in statements.split("; "):
        session.query(statement)


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_forgotten(almighty: MySQLFamilyServer, session: FencedConnection, name: str) -> None:
    """One body's settings and values reach the next."""
    statement, query = STATES[name]
    query = query.format(isolation="tx_isolation" if almighty.is_mariadb else "transaction_isolation")
    before = ask(session, query)
    run(session, statement)
    assert ask(session, query) != before
    session.reset()
    assert ask(session, query) == before


@pytest.mark.parametrize("name", [*LOCKS, *OF_MYSQL, *OF_MARIADB])
def test_a_lock_is_released(almighty: MySQLFamilyServer, session: FencedConnection, name: str) -> None:
    """A kept session of an idle environment stops the shop, or its backups."""
    there = LOCKS | (OF_MARIADB if almighty.is_mariadb else OF_MYSQL)
    if name not in there:
        pytest.skip("this server has no such lock")
    run(session, there[name])
    with pytest.raises(err.MySQLError):
        write_and_alter(almighty)
    session.reset()
    write_and_alter(almighty)


def write_and_alter(server: MySQLFamilyServer) -> None:
    """Do what some lock of the list stops; wait one second for it."""
    with closing(server.root("shop")) as root:
        root.query("SET lock_wait_timeout = 1, innodb_lock_wait_timeout = 1")
        root.query("UPDATE stock SET pieces = pieces")
        root.query("ALTER TABLE stock COMMENT = 'written'")


def test_a_transaction_that_was_announced_is_forgotten(session: FencedConnection) -> None:
    """The next body's first transaction fails, or reads what is not committed."""
    session.query("SET TRANSACTION READ ONLY")
    session.reset()
    session.query("UPDATE stock SET pieces = pieces WHERE id = 1")
    session.rollback()


def test_an_open_handler_is_forgotten(session: FencedConnection) -> None:
    """The next body reads another one's place in a table."""
    session.query("HANDLER stock OPEN")
    session.reset()
    with pytest.raises(err.MySQLError, match="Unknown table"):
        session.query("HANDLER stock READ FIRST")
