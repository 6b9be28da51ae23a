"""What the command advises about MySQL's own limit, on a real server: each word of it has to do what it says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql import err

if TYPE_CHECKING:
    from harness.stack.mysql_family import MySQLFamilyServer

USER = "'advised'@'%'"
LIMITED = 2


@pytest.fixture
def server(shop: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return a server with a user of two connections."""
    shop.create_user("advised", "pw", max_user_connections=LIMITED, require_ssl=False)
    return shop


def admitted(server: MySQLFamilyServer, tries: int) -> int:
    """Return how many of so many connections at once the server takes of the user."""
    assert server.port is not None
    with contextlib.ExitStack() as opened:
        for number in range(tries):
            try:
                session = pymysql.connect(host=server.host, port=server.port, user="advised", password="pw")
            except err.MySQLError:
                return number
            opened.callback(session.close)
        return tries


def test_a_limit_of_nothing_is_no_limit(server: MySQLFamilyServer) -> None:
    """The reason for the advice: an operator who closes a database with 0 would open it to every client."""
    assert admitted(server, LIMITED + 3) == LIMITED
    server.execute(f"ALTER USER {USER} WITH MAX_USER_CONNECTIONS 0")
    assert admitted(server, LIMITED + 3) == LIMITED + 3


def test_a_locked_account_opens_nothing_keeps_what_is_open_and_is_unlocked_with_the_new_limit(
    server: MySQLFamilyServer,
) -> None:
    """The advice for a budget of 0, and that for the next budget above it."""
    assert server.port is not None
    with contextlib.closing(
        pymysql.connect(host=server.host, port=server.port, user="advised", password="pw")
    ) as session:
        server.execute(f"ALTER USER {USER} ACCOUNT LOCK")
        assert admitted(server, 1) == 0
        session.ping(reconnect=False)
    server.execute(f"ALTER USER {USER} WITH MAX_USER_CONNECTIONS 3 ACCOUNT UNLOCK")
    assert admitted(server, 5) == 3
