"""The statement that bounds a session whose client froze right after it signed in, as the documents give it."""

from __future__ import annotations

import re
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from harness.paths import ROOT
from tests.support.database import SLACK_S, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

GOVERNED, OTHER = Login("governed_worker", "pw"), Login("reporting", "pw")
NEW_CONNECTION_REFUSED = 1184


@pytest.fixture
def server(database_server: MySQLFamilyServer) -> MySQLFamilyServer:
    """Return a server with a governed user and another one."""
    for user in (GOVERNED, OTHER):
        database_server.create_user(user.username, user.password)
    return database_server


def documented() -> str:
    """Return the statement in the document, for a limit that a test can wait for."""
    text = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"SET GLOBAL init_connect = '(.+)';", text)
    assert found is not None
    return found[1].replace("10,", "1,")


@contextmanager
def init_connect(server: MySQLFamilyServer, statement: str) -> Iterator[None]:
    server.execute(f"SET GLOBAL init_connect = '{statement}'")
    try:
        yield
    finally:
        server.execute("SET GLOBAL init_connect = ''")


def signed_in(server: MySQLFamilyServer, user: Login) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
    """Return a session of which nothing more is heard: no client of ours, which would send its fence."""
    return pymysql.connect(
        host=server.host,
        port=server.port or 0,
        user=user.username,
        password=user.password,
        ssl_ca=str(server.ca_path),
        autocommit=None,
    )


def test_a_client_that_freezes_after_its_sign_in_loses_its_session(server: MySQLFamilyServer) -> None:
    """Its session lives for the server's own `wait_timeout`, eight hours by default, and its slot is granted again."""
    with init_connect(server, documented()), closing(signed_in(server, GOVERNED)) as frozen:
        since = time.monotonic()
        frozen._sock.settimeout(5)  # type: ignore[attr-defined]
        while frozen._sock.recv(1_000):  # type: ignore[attr-defined]
            pass
        assert time.monotonic() - since < 2 + SLACK_S


def test_all_others_are_as_before(server: MySQLFamilyServer) -> None:
    """Reports that think for a minute between two queries are cut off."""
    with init_connect(server, documented()):
        with closing(signed_in(server, OTHER)) as session:
            assert ask(session, "SELECT @@wait_timeout") == ask_globally(server)
        target = Target(server.host, server.port or 0, tls_ca=str(server.ca_path))
        with closing(open_session(target, GOVERNED, Fence(idle_seconds=7))) as governed:
            assert ask(governed, "SELECT @@wait_timeout") == 7


def ask_globally(server: MySQLFamilyServer) -> object:
    with closing(server.root()) as root:
        return ask(root, "SELECT @@GLOBAL.wait_timeout")


def test_without_the_cast_mysql_refuses_everyone(mysql: MySQLFamilyServer) -> None:
    """Nothing of ours. It is why the documents warn: only an administrator could sign in and undo it."""
    mysql.create_user(OTHER.username, OTHER.password)
    without = re.sub(r"CAST\((.+) AS UNSIGNED\)", r"\1", documented())
    with init_connect(mysql, without), pytest.raises(pymysql.err.OperationalError) as refused:
        signed_in(mysql, OTHER)
    assert refused.value.args[0] == NEW_CONNECTION_REFUSED
