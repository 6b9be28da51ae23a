"""A private database server is private, keeps its data over a crash, and asks its users for TLS: on each engine."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.mysql_family import MySQLFamilyServer


@pytest.fixture(scope="module", params=[PrivateMySQL, PrivateMariaDB], ids=["mysql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[MySQLFamilyServer]:
    """Yield a server of this file's own: its tests kill it."""
    with request.param(max_connections=10) as running:
        yield running


def temporary_folder(server: MySQLFamilyServer) -> Path:
    """Return where a server keeps its temporary tables."""
    with closing(server.root()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@tmpdir")
        ((folder,),) = cursor.fetchall()
    return Path(folder)


def signed_in(server: MySQLFamilyServer, *, tls: bool = True) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
    """Return a connection of the user `clerk`: with TLS verified, or without TLS."""
    assert server.port is not None
    user: dict[str, Any] = {"user": "clerk", "password": "a password"}
    if not tls:
        return pymysql.connect(host=server.host, port=server.port, ssl_disabled=True, **user)
    authority = str(server.ca_path)
    return pymysql.connect(
        host=server.host, port=server.port, ssl_ca=authority, ssl_verify_cert=True, ssl_verify_identity=True, **user
    )


def test_a_starting_server_leaves_the_temporary_tables_of_others_alone(server: MySQLFamilyServer) -> None:
    """A starting server deletes every #sql* file of its temporary folder, and two demos break each other."""
    assert temporary_folder(server).is_relative_to(server.folder)


def test_a_killed_server_comes_back_with_its_data_on_its_port(server: MySQLFamilyServer) -> None:
    """The fault drills would find an empty database, or none."""
    server.execute("CREATE DATABASE survivor", "CREATE TABLE survivor.row_of (id INT PRIMARY KEY)")
    port, (killed,) = server.port, server.pids
    server.kill()
    assert not os.path.exists(f"/proc/{killed}")  # noqa: PTH110 - a path of the kernel's
    server.start()
    server.execute("INSERT INTO survivor.row_of VALUES (1)")
    assert server.port == port
    assert server.pids not in ([killed], [])


def test_a_user_needs_tls_and_the_harness_authority_vouches_for_the_server(server: MySQLFamilyServer) -> None:
    """Tests of TLS would pass on a connection without any."""
    server.create_user("clerk", "a password", max_user_connections=1)
    server.create_user("clerk", "a password", max_user_connections=1)  # in place of the first
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        signed_in(server, tls=False)
    with closing(signed_in(server)), pytest.raises(pymysql.err.OperationalError) as refused:
        signed_in(server)
    assert refused.value.args[0] == 1226


def test_the_engine_names_itself(server: MySQLFamilyServer) -> None:
    """A report would name another engine than the one that ran."""
    assert ("MariaDB" in server.version()) is server.is_mariadb
    assert server.is_mariadb is (server.LABEL == "MariaDB")
