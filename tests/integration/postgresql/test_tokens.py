"""Tokens as passwords on a real PostgreSQL, which asks for them in clear text, as RDS does by way of PAM."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.aws.credentials import FixedCredentials
from connection_governor.aws.database_tokens import DatabaseTokens, rds_request
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.database.tokens import PAUSES_MS, TokenCredentials
from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.opener import Opener
from connection_governor.postgresql.refusal import is_token_denied
from connection_governor.system import SYSTEM_CLOCK, SystemEntropy
from tests.support.postgresql import NAME
from tests.support.virtual import NOW_MS, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.stack.postgresql import PrivatePostgreSQL

SESSION_TOKEN = "IQoJb3JpZ2luX2VjE" * 60  # Lambda's is about so long
USER = "by token"
IN_CLEAR_TEXT = f'hostssl all "{USER}" 127.0.0.1/32 password\n'


@pytest.fixture(scope="module")
def server(shop: PrivatePostgreSQL) -> Iterator[PrivatePostgreSQL]:
    """Yield the server, which asks one role for its password in clear text."""
    rules = shop.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(IN_CLEAR_TEXT + before)
    shop.execute(f'CREATE ROLE "{USER}" LOGIN', "SELECT pg_reload_conf()")
    yield shop
    rules.write_text(before)
    shop.execute("SELECT pg_reload_conf()", f'DROP ROLE "{USER}"')


class AtOnce(SystemEntropy):
    """Jitter that never waits, and counts."""

    def __init__(self) -> None:
        self.draws = 0

    def fraction(self) -> float:
        self.draws += 1
        return 0.0


def tokens_at(target: Target, clock: VirtualClock, session_token: str = SESSION_TOKEN) -> DatabaseTokens:
    request = rds_request("eu-west-1", target.host, target.port, USER)
    return DatabaseTokens(request, FixedCredentials("AKIDEXAMPLE", "secret", session_token), clock)


def opener_by(target: Target, tokens: DatabaseTokens, entropy: AtOnce) -> Opener:
    return Opener(target, TokenCredentials(USER, tokens, is_token_denied, SYSTEM_CLOCK, entropy).attempts, SYSTEM_CLOCK)


def accept(server: PrivatePostgreSQL, token: str) -> None:
    server.execute(f"ALTER ROLE \"{USER}\" PASSWORD '{token}'")


def who(session: psycopg.Connection[Any]) -> object:
    (name,) = session.execute("SELECT current_user").fetchone() or ("",)
    return name


@pytest.mark.parametrize("length", [100, 1_000, 10_000])
def test_a_token_is_a_password(server: PrivatePostgreSQL, target: Target, length: int) -> None:
    """A token that is cut off on its way, or encoded otherwise, is refused by RDS."""
    tokens = tokens_at(target, VirtualClock(), "abc/+=" * (length // 6))
    accept(server, tokens.current())
    with opener_by(target, tokens, AtOnce()).open(Fence(), NAME, None) as session:
        assert who(session) == USER


def test_a_coroutines_token_is_a_password(server: PrivatePostgreSQL, target: Target) -> None:
    """Only workers without asyncio can sign in by IAM."""
    tokens = tokens_at(target, VirtualClock())
    accept(server, tokens.current())

    async def opened() -> None:
        session = opener_by(target, tokens, AtOnce()).new_async_session(Fence(), NAME, None)
        try:
            await session.open()
        finally:
            await session.take_leave()

    asyncio.run(opened())


def test_an_old_token_is_made_anew(server: PrivatePostgreSQL, target: Target) -> None:
    """An environment that was frozen with its token fails its next invocation."""
    clock, entropy = VirtualClock(), AtOnce()
    tokens = tokens_at(target, clock)
    tokens.current()
    clock.advance(60_000)
    accept(server, tokens_at(target, VirtualClock(NOW_MS + 60_000)).current())
    with opener_by(target, tokens, entropy).open(Fence(), NAME, None) as session:
        assert who(session) == USER
    assert entropy.draws == 0


def test_a_denial_is_tried_again_and_then_an_error(server: PrivatePostgreSQL, target: Target) -> None:
    """A throttled sign-in looks like this: without another try, a burst of environments fails."""
    accept(server, "another")
    entropy = AtOnce()
    with pytest.raises(psycopg.errors.InvalidPassword) as denied:
        opener_by(target, tokens_at(target, VirtualClock()), entropy).open(Fence(), NAME, None)
    assert entropy.draws == len(PAUSES_MS)
    assert "iam-db-auth-error" in denied.value.__notes__[0]


def test_so_is_a_refusal_with_pams_code(server: PrivatePostgreSQL, target: Target) -> None:
    """RDS checks tokens by PAM, whose refusal is 28000 and not 28P01."""
    server.execute(f'ALTER ROLE "{USER}" NOLOGIN')  # the same code, of a cause that this server has
    entropy = AtOnce()
    tokens = tokens_at(target, VirtualClock())
    accept(server, tokens.current())
    try:
        with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification):
            opener_by(target, tokens, entropy).open(Fence(), NAME, None)
    finally:
        server.execute(f'ALTER ROLE "{USER}" LOGIN')
    assert entropy.draws == len(PAUSES_MS)


def test_a_token_is_never_sent_without_tls(target: Target) -> None:
    """Whoever reads it can open the database for a quarter of an hour."""
    plain = Target(target.host, target.port, target.database, tls="off")
    with pytest.raises(InvalidRequest) as refused:
        opener_by(plain, tokens_at(plain, VirtualClock()), AtOnce()).open(Fence(), NAME, None)
    assert refused.value.field == "DB_TLS"
