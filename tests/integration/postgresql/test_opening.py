"""Sessions of a real PostgreSQL are opened behind the fence, by the newest credentials and over TLS."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.postgresql.fence import limits
from connection_governor.postgresql.opener import Opener
from connection_governor.postgresql.refusal import is_denied
from connection_governor.system import SYSTEM_CLOCK
from tests.support.postgresql import NAME, WORKER, opener_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.database.server import DatabaseServer
    from connection_governor.postgresql.session import FencedConnection
    from harness.stack.postgresql import PrivatePostgreSQL


def shown(session: psycopg.Connection[tuple[str, ...]], name: str) -> str:
    """Return a run-time parameter in its own unit."""
    query = "SELECT setting FROM pg_settings WHERE name = %s"
    (value,) = session.execute(query, [name]).fetchone() or ("",)
    return value


def test_a_session_is_behind_the_fence_from_its_first_moment(opened: Callable[..., FencedConnection]) -> None:
    """A holder that is frozen right after its login would keep its session for as long as it stays frozen."""
    fence = Fence(idle_seconds=7, statement_seconds=2.5, write_seconds=3, lock_seconds=4)
    session = opened(fence)
    for name, value in limits(fence).items():
        assert shown(session, name) == value, name
    assert shown(session, "application_name") == NAME
    assert session.execute("SELECT source FROM pg_settings WHERE name = 'statement_timeout'").fetchone() == ("client",)


def test_the_longest_name_of_a_lease_is_not_cut_off(target: Target, root: psycopg.Connection[tuple[str]]) -> None:
    """PostgreSQL cuts names after 63 bytes without a word: the janitor would find no lease, and end the session."""
    longest = f"governor:{'x' * 16}:{'y' * 32}#9999"
    with opener_of(target).open(Fence(), longest, None):
        query = "SELECT application_name FROM pg_stat_activity WHERE usename = 'worker'"
        assert root.execute(query).fetchall() == [(longest,)]


def test_settings_of_the_caller_hold_from_the_start(opened: Callable[..., FencedConnection]) -> None:
    """A query would find other tables, or other times, than in the rest of the application."""
    session = opened(settings={"TimeZone": "Europe/Berlin", "search_path": "shop, public"}, autocommit=True)
    assert session.execute("SHOW TimeZone").fetchone() == ("Europe/Berlin",)
    assert session.execute("SHOW search_path").fetchone() == ("shop, public",)
    assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("tls", ["verify", "require"])
def test_the_session_is_encrypted(opened: Callable[..., FencedConnection], tls: str) -> None:
    """A password and every row would be readable on the way."""
    assert opened(tls=tls).pgconn.ssl_in_use


def test_a_server_with_another_authority_is_refused(target: Target) -> None:
    """An impostor on the way would get the password."""
    impostor = Target(target.host, target.port, target.database)  # trusts Amazon's authorities only
    session = opener_of(impostor).new_session(Fence(), NAME, None)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        session.connect()
    session.close()
    assert not session.may_linger, "no login was sent"


def test_a_rotated_password_is_read_again_once(target: Target, shop: PrivatePostgreSQL) -> None:
    """Each environment that remembers the old password would fail until it is replaced."""
    shop.create_user("rotating", "new")
    secrets = [json.dumps({"username": "rotating", "password": word}) for word in ("old", "new")]
    reads: list[str] = []

    def fetch(arn: str, *_: object) -> str:
        reads.append(arn)
        return secrets[min(len(reads), len(secrets)) - 1]

    opener = Opener(target, partial(DatabaseCredentials(fetch, is_denied).attempts, "arn"), SYSTEM_CLOCK)
    for _ in range(2):
        opener.open(Fence(), NAME, None).close()
    assert reads == ["arn", "arn"]


def test_a_wrong_password_is_an_error_with_its_sqlstate(target: Target) -> None:
    """The caller could not tell a wrong password from a server that is gone."""
    session = opener_of(target, Login("worker", "wrong")).new_session(Fence(), NAME, None)
    with pytest.raises(psycopg.errors.InvalidPassword, match="password authentication failed") as refused:
        session.connect()
    assert refused.value.sqlstate == "28P01"
    assert "LOCATION" not in str(refused.value)
    session.close()
    assert not session.may_linger


def test_a_full_role_is_an_error_with_its_sqlstate(target: Target, shop: PrivatePostgreSQL) -> None:
    """The caller could not tell a full server from any other failure to connect."""
    shop.create_user("single", "secret", max_user_connections=1)
    opener = opener_of(target, Login("single", "secret"))
    with opener.open(Fence(), NAME, None):
        session = opener.new_session(Fence(), NAME, None)
        with pytest.raises(psycopg.errors.TooManyConnections):
            session.connect()
        session.close()
        assert not session.may_linger
    opener.open(Fence(), NAME, None).close()


def test_a_closed_port_is_an_error_without_a_lingering_session(target: Target) -> None:
    """A lease would be left to expire for each try at a server that is down."""
    for tls in ("verify", "off"):
        session = opener_of(Target(target.host, 9, tls=tls)).new_session(Fence(), NAME, None)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            session.connect()
        session.close()
        assert not session.may_linger


def test_a_session_learns_which_server_it_is_on(
    target: Target, shop: PrivatePostgreSQL, opened: Callable[..., FencedConnection]
) -> None:
    """The lease of a session on a server that fell silent could only expire."""

    def found() -> DatabaseServer:
        session = opener_of(target).new_session(Fence(), NAME, None)
        session.asks_for_server = True
        with contextlib.closing(session):
            session.connect()
            assert session.server is not None
            return session.server

    before = found()
    assert (before.is_writer, before.proves_ended(before)) == (True, False)
    assert found() == before
    assert opened().server is None, "each opening would cost a round trip more"


def test_a_server_that_only_reads_is_no_writer(target: Target, shop: PrivatePostgreSQL) -> None:
    """After a failover the address may lead to the old writer: every write would fail, and the session be kept."""
    writer = opener_of(Target(target.host, target.port, "shop", tls_ca=target.tls_ca, role="writer"))
    writer.open(Fence(), NAME, None).close()
    shop.execute("ALTER ROLE worker SET default_transaction_read_only = on")
    session = writer.new_session(Fence(), NAME, None)
    try:
        with pytest.raises(psycopg.OperationalError, match="read-only"):
            session.connect()
        session.close()
        assert not session.may_linger
    finally:
        shop.execute("ALTER ROLE worker RESET default_transaction_read_only")


def test_a_session_is_opened_once(opened: Callable[..., FencedConnection]) -> None:
    """A second session under one lease would be one too many."""
    session = opened()
    with pytest.raises(psycopg.InterfaceError, match="never reopened"):
        session.connect()
    assert session.execute("SELECT current_user").fetchone() == (WORKER.username,)
