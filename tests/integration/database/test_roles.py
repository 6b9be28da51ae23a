"""A reset and the roles of a session: the next body has the rights of the sign-in, and no others. On a real server."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pymysql
import pytest
from pymysql.constants import COMMAND

from connection_governor.database.credentials import Login
from connection_governor.mysql.connect import open_session
from tests.support.database import Opener, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.database.target import Target
    from connection_governor.mysql.connect import FencedConnection
    from harness.stack.mysql_family import MySQLFamilyServer

pytestmark = pytest.mark.every_engine

CLERK = Login("clerk", "pw")
ODD = "Ünder`lined"
"""A name that has to be quoted, on both servers."""


@pytest.fixture
def roles(shop: MySQLFamilyServer) -> Iterator[None]:
    """Make a user that reaches nothing but by its roles: one for `shop`, one for `other`."""
    shop.create_user(CLERK.username, CLERK.password)
    for name, schema in ((ODD, "shop"), ("reader", "other")):
        quoted = name.replace("`", "``")
        shop.execute(f"DROP ROLE IF EXISTS `{quoted}`", f"CREATE ROLE `{quoted}`")
        shop.execute(f"GRANT SELECT ON {schema}.* TO `{quoted}`", f"GRANT `{quoted}` TO 'clerk'@'%'")
    default_role(shop, ODD)
    yield
    shop.execute("DROP USER 'clerk'@'%'", "DROP ROLE `Ünder``lined`, reader")


def default_role(server: MySQLFamilyServer, name: str) -> None:
    """Let the clerk sign in with this role."""
    quoted, to = name.replace("`", "``"), "FOR" if server.is_mariadb else "TO"
    server.execute(f"SET DEFAULT ROLE `{quoted}` {to} 'clerk'@'%'")


@pytest.fixture
def session(roles: None, target: Target) -> Iterator[FencedConnection]:
    """Open a session of the clerk."""
    with closing(open_session(target, CLERK)) as opened:
        yield opened


def may_read(session: FencedConnection, schema: str) -> bool:
    return bool(ask(session, "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s", schema))


def test_the_last_bodys_role_is_not_the_next_bodys(session: FencedConnection) -> None:
    """One invocation reads what only another one's role may read: the salaries, with the rights of payroll."""
    session.query("SET ROLE reader")
    assert may_read(session, "other")
    session.reset()
    assert not may_read(session, "other")


def test_a_role_that_is_a_default_is_active_again(session: FencedConnection) -> None:
    """A body gives its rights up, and all that follow in this environment fail."""
    session.query("SET ROLE NONE")
    session.reset()
    assert may_read(session, "shop")


def test_all_roles_are_active_again_where_the_server_activates_all(
    shop: MySQLFamilyServer, roles: None, target: Target
) -> None:
    """`SET ROLE DEFAULT` would leave the next body fewer rights than a new session has."""
    if shop.is_mariadb:
        pytest.skip("MariaDB has one role at a time")
    shop.execute("SET GLOBAL activate_all_roles_on_login = ON")
    try:
        with closing(open_session(target, CLERK)) as session:
            session.query("SET ROLE reader")
            session.reset()
            assert may_read(session, "shop")
            assert may_read(session, "other")
    finally:
        shop.execute("SET GLOBAL activate_all_roles_on_login = OFF")


def test_a_user_without_roles_is_reset_as_before(opened: Opener) -> None:
    """Most users have none: a reset that fails for them keeps no session at all."""
    session = opened()
    for _ in range(3):
        session.reset()
    assert ask(session, "SELECT DATABASE()") == "shop"


def test_a_session_whose_role_was_revoked_is_not_kept(shop: MySQLFamilyServer, session: FencedConnection) -> None:
    """A kept session would work with rights that its user lost, or with fewer than a new one has."""
    session.query("SET ROLE NONE")
    shop.execute("REVOKE `Ünder``lined` FROM 'clerk'@'%'")
    with pytest.raises(pymysql.err.Error):
        session.reset()
    assert not session.open
    assert not session.may_linger


def test_the_last_bodys_resource_group_is_not_the_next_bodys(
    shop: MySQLFamilyServer, roles: None, target: Target
) -> None:
    """A batch job's low priority is every later invocation's."""
    if shop.is_mariadb:
        pytest.skip("MariaDB has no resource groups")
    shop.execute("CREATE RESOURCE GROUP batch TYPE = USER", "GRANT RESOURCE_GROUP_USER ON *.* TO 'clerk'@'%'")
    query = "SELECT resource_group FROM performance_schema.threads WHERE processlist_id = %s"
    try:
        with closing(open_session(target, CLERK)) as session, closing(shop.root()) as root:
            session.query("SET RESOURCE GROUP batch")
            assert ask(root, query, session.thread_id()) == "batch"
            session.reset()
            assert ask(root, query, session.thread_id()) == "USR_default"
    finally:
        shop.execute("DROP RESOURCE GROUP batch")


def test_the_role_comes_before_the_schema_that_it_admits_to(session: FencedConnection) -> None:
    """Without the role the schema is refused, so such an environment would keep no session."""
    session.query("SET ROLE reader")
    session.query("USE other")
    session.reset()
    assert ask(session, "SELECT DATABASE()") == "shop"


def test_a_session_that_did_not_ask_for_its_roles_is_not_reset(
    opened: Opener, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which roles it began with is unknown by then: to keep it would be a guess about its rights."""
    monkeypatch.setattr("connection_governor.mysql.session.roles_query", lambda **_: "SELECT NO_SUCH_FUNCTION()")
    with closing(open_session(replace(target, database=None), Login("fenced", "pässwörd €"))) as session:
        with pytest.raises(pymysql.err.InterfaceError):
            session.reset()
        assert not session.open


def test_a_command_that_a_reset_does_not_undo_ends_the_session(opened: Opener) -> None:
    """Several statements in one stay allowed for the next body: what one injection needs."""
    session = opened()
    session._execute_command(COMMAND.COM_SET_OPTION, b"\0\0")
    session._read_packet()
    assert ask(session, "SELECT 1; SELECT 2") == 1
    with pytest.raises(pymysql.err.InterfaceError):
        session.reset()
    assert not session.open
