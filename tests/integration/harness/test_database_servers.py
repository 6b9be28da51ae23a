"""A private database server is private, keeps its data over a crash, and asks its users for TLS: on each engine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import pytest

from harness.stack.engines import SERVERS
from harness.stack.mysql_family import MySQLFamilyServer
from harness.stack.postgresql import PrivatePostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.database_server import DatabaseServer

CLERK: dict[str, Any] = {"user": "clerk", "password": "a password"}


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """Yield a server of this file's own: its tests kill it."""
    with SERVERS[request.param](max_connections=10) as running:
        yield running


def signed_in(server: DatabaseServer, *, tls: bool = True) -> Any:  # noqa: ANN401 - a connection of either driver
    """Return a connection of the user `clerk`: with TLS verified, or without TLS."""
    assert server.port is not None
    authority = str(server.ca_path)
    if isinstance(server, PrivatePostgreSQL):
        mode: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": authority} if tls else {"sslmode": "disable"}
        return psycopg.connect(host=server.host, port=server.port, dbname="postgres", **mode, **CLERK)
    if not tls:
        return pymysql.connect(host=server.host, port=server.port, ssl_disabled=True, **CLERK)
    return pymysql.connect(
        host=server.host, port=server.port, ssl_ca=authority, ssl_verify_cert=True, ssl_verify_identity=True, **CLERK
    )


REFUSALS = (pymysql.err.OperationalError, psycopg.OperationalError)


def test_a_starting_server_leaves_the_temporary_tables_of_others_alone(server: DatabaseServer) -> None:
    """A starting server deletes every #sql* file of its temporary folder, and two demos break each other."""
    if not isinstance(server, MySQLFamilyServer):
        pytest.skip("PostgreSQL keeps temporary tables in its data folder")
    with closing(server.root()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@tmpdir")
        ((folder,),) = cursor.fetchall()
    assert Path(folder).is_relative_to(server.folder)


def test_a_killed_server_comes_back_with_its_data_on_its_port(server: DatabaseServer) -> None:
    """The fault drills would find an empty database, or none."""
    server.execute("CREATE TABLE IF NOT EXISTS " + in_schema(server, "survivor") + " (id INT PRIMARY KEY)")
    server.create_user("clerk", "a password")
    port, killed = server.port, server.pids
    with closing(signed_in(server)):
        server.kill()
        server.start()
    server.execute("INSERT INTO " + in_schema(server, "survivor") + " VALUES (1)")
    assert server.port == port
    assert not set(killed) & set(server.pids)


def in_schema(server: DatabaseServer, table: str) -> str:
    """Return a table's name in a schema that each engine has."""
    return table if isinstance(server, PrivatePostgreSQL) else f"sys.{table}"


def test_a_server_stops_although_a_client_is_signed_in(server: DatabaseServer) -> None:
    """A failover drill would wait for the workers, which wait for it."""
    server.create_user("clerk", "a password")
    with closing(signed_in(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        server.stop()
        assert server.pids == []
        server.start()


def test_a_user_needs_tls_and_the_harness_authority_vouches_for_the_server(server: DatabaseServer) -> None:
    """Tests of TLS would pass on a connection without any."""
    for limit in (5, 1):  # the second in place of the first
        server.create_user("clerk", "a password", max_user_connections=limit)
    with pytest.raises(REFUSALS, match=r"denied|no encryption"):
        signed_in(server, tls=False)
    with closing(signed_in(server)), pytest.raises(REFUSALS, match=r"1226|too many connections for role"):
        signed_in(server)


def test_a_user_may_be_spared_tls(server: DatabaseServer) -> None:
    """Tests of DB_TLS=off would find no user to sign in."""
    server.create_user("clerk", "a password", require_ssl=False)
    signed_in(server, tls=False).close()


def test_the_engine_names_itself(server: DatabaseServer) -> None:
    """A report would name another engine than the one that ran."""
    assert all(part.isdigit() for part in server.release().split("."))
    assert server.version().startswith(server.release())
    assert ("MariaDB" in server.version()) is (server.LABEL == "MariaDB")
