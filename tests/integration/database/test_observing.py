"""What MySQL counts, matched to leases, and the end of one session by its identity. On a real MariaDB."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

import pymysql
import pytest

from connection_governor.core.observation import Session
from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.errors import InvalidRequest
from connection_governor.mysql.connect import open_session
from connection_governor.mysql.observe import kill, observe
from connection_governor.server.mysql.watch import MySQLWatch
from tests.support.database import SLACK_S, WORKER, Opener, ask, listed, opener_for, seconds_until_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

    from connection_governor.mysql import opener as mysql_opener
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

NAME = "governor:k3Zq81Bd:orders#3"


@pytest.fixture
def janitor(shop: MySQLFamilyServer) -> Iterator[Connection[Cursor]]:
    """Yield a monitoring user with no more rights than the documentation asks for."""
    shop.create_user("janitor", "pw", require_ssl=False, grants=["SELECT ON performance_schema.*", shop.KILL_RIGHT])
    with contextlib.closing(_sign_in(shop, "janitor")) as connection:
        yield connection


def _sign_in(server: MySQLFamilyServer, user: str) -> Connection[Cursor]:
    assert server.port is not None
    return pymysql.connect(host=server.host, port=server.port, user=user, password="pw", autocommit=True)


def _seen(connection: Connection[Cursor], connection_id: int) -> Session:
    return next(
        found for found in observe(connection, [WORKER.username]).sessions if found.connection_id == connection_id
    )


def test_each_session_is_matched_to_its_lease(opened: Opener, janitor: Connection[Cursor]) -> None:
    """Drift and ungoverned connections are read from here: a wrong match is a false alarm, or a wrong kill."""
    governed, ungoverned = opened(program_name=NAME), opened(program_name="mysqldump")
    found = observe(janitor, [WORKER.username])
    assert found.names_known
    assert found.ungoverned == 1
    assert {session.connection_id for session in found.sessions} == {governed.thread_id(), ungoverned.thread_id()}
    session = _seen(janitor, governed.thread_id())
    assert (session.user, session.command, session.lease_id, session.database) == (
        "fenced",
        "Sleep",
        "k3Zq81Bd",
        "orders",
    )
    assert _seen(janitor, ungoverned.thread_id()).lease_id is None


def test_only_the_governed_users_are_listed(opened: Opener, janitor: Connection[Cursor]) -> None:
    """An administrator at work, the observer and the server's own threads are no drift."""
    session = opened(program_name=NAME)
    assert observe(janitor, ["janitor", "system user"]).sessions == ()
    assert [found.connection_id for found in observe(janitor, ["janitor", "fenced"]).sessions] == [session.thread_id()]
    with pytest.raises(InvalidRequest, match="users"):
        observe(janitor, [])


@pytest.mark.parametrize("name", ["", "governor", "governor:short:0", "governor:k3Zq81Bd", "xgovernor:k3Zq81Bd:a#0"])
def test_a_name_of_another_form_is_no_lease(name: str) -> None:
    """Another program must never be taken for a holder with an expired lease."""
    assert Session(1, "u", "h", "Sleep", 0, name).lease_id is None


def test_kill_ends_the_session_of_that_lease(
    opened: Opener, janitor: Connection[Cursor], root: Connection[Cursor]
) -> None:
    """The last net: a statement that runs on past its limits."""
    session = opened(program_name=NAME)
    assert kill(janitor, _seen(janitor, session.thread_id()))
    seconds_until_gone(root, session.thread_id(), at_most=2)
    assert not session.is_alive()


def test_kill_spares_the_session_of_another_lease(
    opened: Opener, janitor: Connection[Cursor], root: Connection[Cursor]
) -> None:
    """Killing a live connection is worse than leaving a dead one."""
    governed, ungoverned = opened(program_name=NAME), opened()
    other = "governor:Other_00:orders#3"
    assert not kill(janitor, dataclasses.replace(_seen(janitor, governed.thread_id()), program_name=other))
    assert not kill(janitor, _seen(janitor, ungoverned.thread_id()))
    assert listed(root, governed.thread_id())
    assert listed(root, ungoverned.thread_id())


def test_kill_of_a_session_that_is_gone_does_nothing(opened: Opener, janitor: Connection[Cursor]) -> None:
    """Sessions end while the janitor looks at them: no error, and no alarm."""
    session = opened(program_name=NAME)
    seen = _seen(janitor, session.thread_id())
    session.close()
    assert not kill(janitor, seen)


def test_without_the_right_to_kill_rds_procedure_is_called(
    opened: Opener, shop: MySQLFamilyServer, root: Connection[Cursor]
) -> None:
    """The master user of RDS may have no right of its own to kill."""
    shop.execute(
        "DROP PROCEDURE IF EXISTS mysql.rds_kill",
        "CREATE PROCEDURE mysql.rds_kill(IN thread BIGINT) SQL SECURITY DEFINER KILL thread",
    )
    shop.create_user(
        "master",
        "pw",
        require_ssl=False,
        grants=["SELECT ON performance_schema.*", "EXECUTE ON PROCEDURE mysql.rds_kill"],
    )
    session = opened(program_name=NAME)
    with contextlib.closing(_sign_in(shop, "master")) as master:
        assert kill(master, _seen(master, session.thread_id()))
        seconds_until_gone(root, session.thread_id(), at_most=2)
        shop.execute("DROP PROCEDURE mysql.rds_kill")
        left = opened(program_name=NAME)
        with pytest.raises(pymysql.err.MySQLError):
            kill(master, _seen(master, left.thread_id()))


@pytest.mark.parametrize("option", ["--performance-schema=OFF", "--performance-schema-session-connect-attrs-size=0"])
def test_a_server_that_keeps_no_names_says_so(option: str, new_server: type[MySQLFamilyServer]) -> None:
    """Taken for "no leases", it would have the janitor alarm, or kill, everyone."""
    with new_server(options=[option]) as server:
        server.create_user("fenced", "pw")
        assert server.port is not None
        target = Target(server.host, server.port, tls_ca=str(server.ca_path))
        session = open_session(target, Login("fenced", "pw"), program_name=NAME)
        with contextlib.closing(server.root()) as root:
            found = observe(root, ["fenced"])
            assert (found.names_known, found.ungoverned) == (False, None)
            assert [seen.connection_id for seen in found.sessions] == [session.thread_id()]
            assert found.sessions[0].lease_id is None
            assert not kill(root, found.sessions[0])
            assert not kill(root, dataclasses.replace(found.sessions[0], program_name=NAME))
        session.close()


def test_the_janitors_watch_opens_one_session_at_its_first_question_and_closes_it(
    opened: Opener, target: Target, shop: MySQLFamilyServer, root: Connection[Cursor]
) -> None:
    """A round leaves sessions behind, and the janitor takes the places that it watches over."""
    user = Login("watching", "pw")
    shop.create_user(user.username, user.password, grants=["SELECT ON performance_schema.*", shop.KILL_RIGHT])
    governed = opened(program_name=NAME)
    asked: list[str] = []

    def opener() -> mysql_opener.Opener:
        asked.append("opener")
        return opener_for(dataclasses.replace(target, database=None), user)

    watch = MySQLWatch(opener, lambda: [WORKER.username])
    assert asked == []
    with contextlib.closing(watch):
        (session,) = watch.observe().sessions
        assert watch.kill(session)
        watch.observe()
        assert asked == ["opener"]
        assert _sessions_of(root, user) == 1
    seconds_until_gone(root, governed.thread_id(), at_most=SLACK_S)
    ends_s = time.monotonic() + SLACK_S
    while (left := _sessions_of(root, user)) and time.monotonic() < ends_s:
        time.sleep(0.01)
    assert left == 0


def test_a_watch_that_was_never_asked_closes_nothing() -> None:
    """A round that fails before its first question fails with another error."""
    MySQLWatch(pytest.fail, list).close()


def _sessions_of(root: Connection[Cursor], user: Login) -> int:
    return int(ask(root, "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = %s", user.username))
