"""Opening a governed session on a real MariaDB: TLS, credentials, settings, round trips."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pymysql
import pytest
from pymysql.connections import Connection
from pymysql.cursors import Cursor, DictCursor

from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.errors import InvalidRequest
from connection_governor.mysql.connect import FencedConnection, is_denied, open_session
from connection_governor.mysql.fence import SessionStart
from harness.stack.tls import make_server_certificate
from tests.support.database import SLACK_S, WORKER, Opener, ask

if TYPE_CHECKING:
    from pathlib import Path

    from connection_governor.core.deadline import Deadline
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

ENCRYPTED = "SHOW SESSION STATUS WHERE variable_name = 'Ssl_cipher' AND value <> ''"


def test_the_fence_is_up_from_the_first_moment(opened: Opener) -> None:
    """A setting that the server did not take is a session that outlives its lease."""
    fence = Fence(idle_seconds=7, statement_seconds=3.5, write_seconds=4, lock_seconds=2)
    start = SessionStart(collation="utf8mb4_bin", time_zone="+03:00", sql_mode="ANSI_QUOTES")
    session = opened(fence, start=start)
    for name, value in fence.session_settings(is_mariadb=session.is_mariadb).items():
        assert float(ask(session, f"SELECT @@SESSION.{name}")) == value, name
    assert ask(session, "SELECT @@autocommit") == 0
    assert ask(session, "SELECT @@time_zone") == "+03:00"
    assert ask(session, "SELECT @@sql_mode") == "ANSI_QUOTES"
    assert ask(session, "SELECT @@collation_connection") == "utf8mb4_bin"
    assert ask(session, "SELECT DATABASE()") == "shop"


def test_without_options_it_is_what_pymysql_opens(opened: Opener, shop: MySQLFamilyServer, target: Target) -> None:
    """A worker that moves to the governor must not find another SQL mode, time zone, charset or autocommit."""
    names = ("autocommit", "time_zone", "sql_mode", "character_set_client", "collation_connection")
    query = "SELECT " + ", ".join(f"@@{name}" for name in names)
    plain = pymysql.connect(
        host=target.host,
        port=target.port,
        user=WORKER.username,
        password=WORKER.password.encode(),
        ssl_ca=target.tls_ca,
    )
    answers = []
    for connection in (plain, opened()):
        with connection.cursor() as cursor:
            cursor.execute(query)
            answers.append(cursor.fetchone())
    plain.close()
    assert answers[0] == answers[1]


def test_other_options_of_pymysql_go_through(opened: Opener) -> None:
    """Workers choose their cursor class, ORMs their client flags."""
    with opened(cursorclass=DictCursor).cursor() as cursor:
        cursor.execute("SELECT 1 AS one")
        rows: Any = cursor.fetchall()
        assert rows == [{"one": 1}]


def test_the_connection_is_encrypted_and_the_session_names_its_lease(opened: Opener, root: Connection[Cursor]) -> None:
    """By this name alone the janitor tells whose session it is."""
    session = opened(program_name="governor:k3Zq81Bd:orders#3")
    assert ask(session, ENCRYPTED)
    with root.cursor() as cursor:
        cursor.execute(
            "SELECT attr_value FROM performance_schema.session_connect_attrs"
            " WHERE processlist_id = %s AND attr_name = 'program_name'",
            (session.thread_id(),),
        )
        assert cursor.fetchall() == (("governor:k3Zq81Bd:orders#3",),)


def test_another_authority_is_refused(target: Target, tmp_path: Path) -> None:
    """Anyone can make a certificate: only the right authority's may see the password."""
    stranger = make_server_certificate(tmp_path).authority
    with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        open_session(dataclasses.replace(target, tls_ca=str(stranger)), WORKER)


def test_another_name_is_refused(target: Target) -> None:
    """A certificate of the right authority for another host is another server."""
    with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        open_session(dataclasses.replace(target, host="127.1"), WORKER)


def test_by_default_only_amazons_authorities_are_trusted(target: Target) -> None:
    """Leaving a setting out must not mean that anyone is trusted."""
    with pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        open_session(Target(target.host, target.port), WORKER)


def test_require_encrypts_without_verifying(target: Target) -> None:
    """The way out where no authority is at hand: still no password in plain text."""
    session = open_session(dataclasses.replace(target, tls="require", tls_ca=None), WORKER)
    assert ask(session, ENCRYPTED)
    session.close()


def test_off_is_off_and_a_server_that_wants_tls_says_no(target: Target) -> None:
    """`off` must not be a quiet `prefer`."""
    with pytest.raises(pymysql.err.OperationalError) as denied:
        open_session(dataclasses.replace(target, tls="off"), WORKER)
    assert denied.value.args[0] == 1045


def test_a_server_without_tls_is_refused() -> None:
    """An attacker who strips TLS from the greeting must not get the password."""
    greeting = b"\n5.5.5-10.11.6-MariaDB\0" + bytes(4) + b"saltsalt\0" + b"\x0f\xa2\x21\x02\0\x3f\xf4\x15" + bytes(34)
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(bytes([len(greeting), 0, 0, 0]) + greeting)
                heard.extend(client.recv(4_096))

        server = threading.Thread(target=greet)
        server.start()
        with pytest.raises(pymysql.err.OperationalError):
            open_session(Target("127.0.0.1", listener.getsockname()[1]), Login("u", "secret"))
        server.join()
    assert not heard


def test_all_openings_take_up_the_tls_session_of_the_first(opened: Opener) -> None:
    """Without it, each invocation costs MySQL a signature, and the worker a verification."""
    opened()
    assert all(opened()._sock.session_reused for _ in range(3))  # type: ignore[union-attr] # a TLS socket


def test_a_server_that_forgot_the_tls_session_is_greeted_anew(new_server: type[MySQLFamilyServer]) -> None:
    """After a failover the remembered session is unknown: it must cost time, not an error."""
    with new_server(options=["--performance-schema=OFF"]) as server:
        server.create_user("forgotten", "pw")
        assert server.port is not None
        target = Target(server.host, server.port, tls_ca=str(server.ca_path))
        credentials = Login("forgotten", "pw")
        open_session(target, credentials).close()
        server.restart()
        for is_reused in (False, True):
            session = open_session(target, credentials)
            assert session._sock.session_reused is is_reused  # type: ignore[union-attr] # a TLS socket
            session.close()


def test_a_rotated_password_is_read_again(target: Target, shop: MySQLFamilyServer) -> None:
    """A warm environment must live through a rotation by itself."""
    shop.create_user("rotated", "new", grants=["ALL ON shop.*"])
    secrets = [{"username": "rotated", "password": word} for word in ("old", "new")]
    read: list[str] = []

    def fetch(arn: str, _deadline: Deadline | None = None) -> str:
        read.append(arn)
        return json.dumps(secrets[len(read) - 1])

    session = DatabaseCredentials(fetch, is_denied).sign_in("arn", lambda login: open_session(target, login))
    assert ask(session, "SELECT CURRENT_USER()") == "rotated@%"
    assert len(read) == 2
    session.close()


def test_the_servers_own_error_surfaces(target: Target) -> None:
    """The author of a worker has to see what MySQL said."""
    with pytest.raises(pymysql.err.OperationalError) as unknown:
        open_session(dataclasses.replace(target, database="nowhere"), WORKER)
    assert unknown.value.args[0] in {1044, 1049}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(pymysql.err.OperationalError) as refused:
        open_session(Target("127.0.0.1", free), WORKER)
    assert refused.value.args[0] == 2003


def test_a_server_that_stays_silent_is_given_up(target: Target) -> None:
    """A stuck database must not eat the whole invocation."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stuck = Target("127.0.0.1", silent.getsockname()[1], connect_seconds=0.2)
        since = time.monotonic()
        with pytest.raises(pymysql.err.OperationalError, match="timed out"):
            open_session(stuck, WORKER)
        assert time.monotonic() - since < 0.2 + SLACK_S


def test_a_bad_setting_reaches_no_server(target: Target) -> None:
    """The mistake is the configuration's, and it is named."""
    with pytest.raises(InvalidRequest):
        open_session(dataclasses.replace(target, tls="maybe"), WORKER)


class CountedConnection(FencedConnection):
    """Counts writes: each but the one that starts TLS waits for an answer."""

    writes = 0

    def _write_bytes(self, data: bytes) -> None:
        self.writes += 1
        super()._write_bytes(data)


class CountedPyMySQL(Connection):
    """The same for the peer."""

    writes = 0

    def _write_bytes(self, data: bytes) -> None:
        self.writes += 1
        super()._write_bytes(data)  # type: ignore[misc] # not in the stubs


def test_opening_takes_one_round_trip_less_than_pymysql(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round trip is a millisecond between availability zones, in each invocation."""
    monkeypatch.setattr("connection_governor.mysql.connect.FencedConnection", CountedConnection)
    ours: Any = open_session(target, WORKER)
    theirs = CountedPyMySQL(
        host=target.host,
        port=target.port,
        user=WORKER.username,
        password=WORKER.password.encode(),
        ssl_ca=target.tls_ca,
        ssl_verify_cert=True,
    )
    assert ours.writes == 3  # start TLS, sign in, set up
    assert theirs.writes == 4  # start TLS, sign in, SET NAMES, SET AUTOCOMMIT
    ours.writes = 0
    assert ours.is_alive()
    ours.reset()
    assert ours.writes == 2
    ours.close()
    theirs.close()
