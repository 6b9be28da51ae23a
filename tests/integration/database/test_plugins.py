"""What the drivers send when a server asks for the password in a way of its choice, byte by byte."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.database.credentials import Login, only
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.database.tokens import TokenCredentials
from connection_governor.mysql.connect import is_denied, new_session
from connection_governor.mysql.opener import Opener
from connection_governor.system import SYSTEM_CLOCK, SystemEntropy
from harness.stack.tls import make_server_certificate
from tests.support.scripted_mysql import ScriptedMySQL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Opening = Callable[[Target, Login], None]

SECRET = Login("worker", "hunter2")
TOKEN = Login("worker", "db.host:3306/?Action=connect&DBUser=worker&X-Amz-Signature=" + "a" * 1_200, is_token=True)
CANNOT_LOAD = 2059


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """Return a server's TLS, and the file of its authority."""
    folder: Path = tmp_path_factory.mktemp("tls")
    made = make_server_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context, str(made.authority)


def pymysql_opens(target: Target, credentials: Login) -> None:
    session = new_session(target, only(credentials), Fence())
    try:
        session.connect()
    finally:
        session.close()


def aiomysql_opens(target: Target, credentials: Login) -> None:
    opened_by(Opener(target, lambda _deadline: only(credentials)(), SYSTEM_CLOCK))


def opened_by(opener: Opener) -> None:
    """Open a session of aiomysql, and drop it."""

    async def opened() -> None:
        session = opener.new_async_session(Fence(), "", None)
        try:
            await session.open()
        finally:
            session.drop()

    asyncio.run(opened())


drivers = pytest.mark.parametrize("opens", [pymysql_opens, aiomysql_opens])


def refused(opens: Opening, target: Target, credentials: Login) -> None:
    with pytest.raises(err.OperationalError) as error:
        opens(target, credentials)
    assert error.value.args[0] == CANNOT_LOAD, error.value


def sent_by(server: ScriptedMySQL) -> bytes:
    return b"".join(heard.first + b"".join(heard.replies) for heard in server.heard)


@drivers
@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog", b"mysql_old_password", b""])
@pytest.mark.parametrize("mode", ["off", "require", "verify"])
def test_no_server_gets_a_password_by_asking_for_it(
    opens: Opening, plugin: bytes, mode: str, tls: tuple[ssl.SSLContext, str]
) -> None:
    """Whoever answers in the server's place asks for the password in clear text, and has it."""
    context, authority = tls
    with ScriptedMySQL(plugin, tls=None if mode == "off" else context) as server:
        target = Target("127.0.0.1", server.port, tls=mode, tls_ca=authority if mode == "verify" else None)
        with pytest.raises(err.OperationalError):
            opens(target, SECRET)
    assert len(server.heard) == 1
    assert not server.heard[0].replies
    assert b"hunter2" not in sent_by(server)


@drivers
@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog"])
def test_nor_by_a_greeting_that_asks_for_it(opens: Opening, plugin: bytes) -> None:
    """Before any change of the plugin, the greeting names one: aiomysql obeys it at once."""
    with ScriptedMySQL(None, greets_with=plugin) as server:
        refused(opens, Target("127.0.0.1", server.port, tls="off"), SECRET)
    assert b"hunter2" not in sent_by(server)


@drivers
def test_nor_by_a_server_that_knows_no_plugins(opens: Opening) -> None:
    """A change without a name means the oldest way, whose hash gives the password away."""
    with ScriptedMySQL(b"", knows_plugins=False) as server:
        with pytest.raises(err.OperationalError):
            opens(Target("127.0.0.1", server.port, tls="off"), SECRET)
        assert not server.heard[0].replies


@drivers
@pytest.mark.parametrize("greeting", [b"mysql_native_password", b"caching_sha2_password", b"mysql_clear_password"])
@pytest.mark.parametrize("mode", ["require", "verify"])
def test_a_token_is_sent_in_clear_text_over_tls(
    opens: Opening, greeting: bytes, mode: str, tls: tuple[ssl.SSLContext, str]
) -> None:
    """RDS asks for a token in this way, and no other: without it, no sign-in by IAM works."""
    context, authority = tls
    with ScriptedMySQL(b"mysql_clear_password", greets_with=greeting, tls=context) as server:
        opens(Target("127.0.0.1", server.port, tls=mode, tls_ca=authority if mode == "verify" else None), TOKEN)
    (heard,) = server.heard
    assert (heard.user, heard.over_tls) == (b"worker", True)
    assert heard.replies == [TOKEN.password.encode() + b"\0"]


@drivers
@pytest.mark.parametrize("greeting", [b"mysql_native_password", b"mysql_clear_password"])
def test_a_token_is_not_sent_without_tls(opens: Opening, greeting: bytes) -> None:
    """A token opens the database to whoever reads it, for a quarter of an hour."""
    with ScriptedMySQL(b"mysql_clear_password", greets_with=greeting) as server:
        refused(opens, Target("127.0.0.1", server.port, tls="off"), TOKEN)
    assert b"X-Amz-Signature" not in sent_by(server)


@drivers
def test_the_usual_plugins_are_answered(opens: Opening) -> None:
    """A change to another plugin is usual: the greeting names the server's default, and the user has another one."""
    with ScriptedMySQL(b"mysql_native_password", greets_with=b"caching_sha2_password") as server:
        opens(Target("127.0.0.1", server.port, tls="off"), SECRET)
    assert [len(reply) for reply in server.heard[0].replies] == [20]


class Numbered:
    """Tokens that are never too young to be made anew."""

    def __init__(self) -> None:
        self.number = 1

    def current(self) -> str:
        return f"token-{self.number}"

    def newer_than(self, _refused: str) -> str:
        self.number += 1
        return self.current()


class AtOnce(SystemEntropy):
    """Jitter that never waits."""

    def fraction(self) -> float:
        return 0.0


@pytest.mark.parametrize("opens", [lambda opener: opener.open(Fence(), "", None).close(), opened_by])
@pytest.mark.parametrize("denials", [1, 3])
def test_a_denied_token_is_made_anew_once_and_then_tried_again(
    opens: Callable[[Opener], None], denials: int, tls: tuple[ssl.SSLContext, str]
) -> None:
    """An old token, or a throttled sign-in, ends the invocation."""
    context, authority = tls
    with ScriptedMySQL(b"mysql_clear_password", tls=context, denies=denials) as server:
        target = Target("127.0.0.1", server.port, tls_ca=authority)
        tokens = TokenCredentials("worker", Numbered(), is_denied, SYSTEM_CLOCK, AtOnce())
        opens(Opener(target, tokens.attempts, SYSTEM_CLOCK))
    sent = [reply.rstrip(b"\0").decode() for heard in server.heard for reply in heard.replies]
    assert sent == ["token-1"] + ["token-2"] * denials
