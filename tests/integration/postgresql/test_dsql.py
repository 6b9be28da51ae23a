"""Sessions under the rules of Aurora DSQL: on a real PostgreSQL that is restricted to what DSQL is known to take."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from connection_governor.aws.credentials import FixedCredentials
from connection_governor.aws.database_tokens import DatabaseTokens, dsql_request
from connection_governor.client.governor import Governor
from connection_governor.client.ports import Dependencies
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.database.tokens import PAUSES_MS, TokenCredentials
from connection_governor.errors import InvalidRequest
from connection_governor.metrics import Reporter
from connection_governor.postgresql.opener import Opener
from connection_governor.postgresql.refusal import is_token_denied, is_too_fast
from connection_governor.postgresql.rules import AURORA_DSQL, POSTGRESQL, Rules
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY, SystemClock, SystemEntropy
from harness.stack.tls import make_server_certificate
from tests.support.dsql_proxy import DsqlProxy
from tests.support.invocation import Invocation
from tests.support.postgresql import NAME
from tests.support.postgresql import opener_of as postgresql_opener

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.stack.postgresql import PrivatePostgreSQL

USER = "dsql_worker"
MINUTE_MS = 60_000


@dataclass
class Cluster:
    """The restricted server, and where its certificate's authority is."""

    proxy: DsqlProxy
    target: Target


class Ahead(SystemClock):
    """The machine's clock, which a test sets ahead."""

    def __init__(self) -> None:
        self.by_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.by_ms


class AtOnce(SystemEntropy):
    """Jitter that never waits, and counts."""

    def __init__(self) -> None:
        self.draws = 0

    def fraction(self) -> float:
        self.draws += 1
        return 0.0


@pytest.fixture(scope="module")
def server(shop: PrivatePostgreSQL) -> Iterator[PrivatePostgreSQL]:
    """Yield the server, which admits one role by its socket: the proxy has checked its token."""
    rules = shop.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all {USER} trust\n{before}")
    shop.execute(
        f"CREATE ROLE {USER} LOGIN", f"GRANT ALL ON stock TO {USER}", "SELECT pg_reload_conf()", database="shop"
    )
    yield shop
    rules.write_text(before)
    shop.execute(f"DROP OWNED BY {USER}", f"DROP ROLE {USER}", "SELECT pg_reload_conf()", database="shop")


@pytest.fixture
def cluster(server: PrivatePostgreSQL, tmp_path: Path) -> Iterator[Cluster]:
    """Yield the server behind DSQL's rules."""
    made = make_server_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    assert server.port is not None
    with DsqlProxy(server.folder, server.port, context, lambda user, token: f"{user}-" not in token) as proxy:
        yield Cluster(proxy, Target("127.0.0.1", proxy.port, "shop", tls_ca=str(made.authority)))


def opener_of(
    cluster: Cluster, rules: Rules = AURORA_DSQL, clock: SystemClock = SYSTEM_CLOCK, entropy: AtOnce | None = None
) -> Opener:
    request = dsql_request("eu-west-1", cluster.target.host, USER)
    tokens = DatabaseTokens(request, FixedCredentials("AKIDEXAMPLE", "secret", "x" * 800), SYSTEM_CLOCK)
    credentials = TokenCredentials(
        USER, tokens, is_token_denied, SYSTEM_CLOCK, entropy or AtOnce(), is_throttled=is_too_fast
    )
    return Opener(cluster.target, credentials.attempts, clock, rules)


def governor_of(opener: Opener, **options: Any) -> Governor:  # noqa: ANN401 - the governor's own
    quiet = Reporter(write=lambda _line: None)
    store = MemoryStore()
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget("orders", 10)
    service = Service(Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY), lambda: operations, quiet, SYSTEM_CLOCK)
    dependencies = Dependencies(
        SYSTEM_CLOCK, SYSTEM_ENTROPY, quiet, make_opener=lambda: opener, operations=lambda: operations
    )
    return Governor(service, dependencies, holder="shop/test", database="orders", **options)


def test_postgresqls_own_rules_are_refused(cluster: Cluster) -> None:
    """Else this file proves nothing: the restricted server would take what DSQL does not."""
    with pytest.raises(psycopg.OperationalError, match="not supported"):
        opener_of(cluster, POSTGRESQL).open(Fence(), NAME, None)
    assert cluster.proxy.refused == [b"options"]


def test_a_session_opens_by_a_token_and_without_settings(cluster: Cluster) -> None:
    """DSQL refuses each session that brings a fence."""
    with opener_of(cluster).open(Fence(), NAME, None) as session:
        assert session.execute("SELECT current_user").fetchone() == (USER,)
        assert session.execute("SHOW application_name").fetchone() == (NAME,)
        assert session.execute("SHOW statement_timeout").fetchone() == ("0",)
    (token,) = cluster.proxy.tokens
    assert token.startswith("127.0.0.1/?Action=DbConnect&X-Amz-Algorithm=")
    assert "%2Feu-west-1%2Fdsql%2Faws4_request" in token
    assert cluster.proxy.refused == []


def test_so_does_a_coroutines(cluster: Cluster) -> None:
    """Only workers without asyncio can use DSQL."""

    async def used() -> object:
        session = opener_of(cluster).new_async_session(Fence(), NAME, None)
        try:
            await session.open()
            for _ in range(7):  # psycopg prepares a statement that it has seen five times
                cursor = await session.execute("SELECT 1")
            assert await session.end_sessions(["other"]) == 0
            return await cursor.fetchone()
        finally:
            await session.take_leave()

    assert asyncio.run(used()) == (1,)
    assert cluster.proxy.refused == []


def test_a_kept_session_is_reset_with_what_dsql_takes(cluster: Cluster) -> None:
    """Each invocation opens a session: DSQL takes 100 a second."""
    governor = governor_of(opener_of(cluster), keep_seconds=10)
    numbers = set()
    for _ in range(3):
        with governor.connection(context=Invocation()) as connection:
            numbers.add(connection.info.backend_pid)
            for _ in range(7):
                connection.execute("SELECT 1")
            assert connection.execute("SELECT current_setting('app.tenant', true)").fetchone() in ((None,), ("",))
            connection.execute("SELECT set_config('app.tenant', 'blue', false)")
            connection.commit()
    governor.close()
    assert len(numbers) == len(cluster.proxy.tokens) == 1
    assert cluster.proxy.refused == []


def test_a_kept_session_ends_before_dsql_ends_it(cluster: Cluster) -> None:
    """DSQL ends a connection after 60 minutes, in the middle of a body."""
    clock = Ahead()
    session = opener_of(cluster, clock=clock).open(Fence(), NAME, None)
    session.reset()
    clock.by_ms = 39 * MINUTE_MS
    session.reset()
    clock.by_ms = 40 * MINUTE_MS
    with pytest.raises(psycopg.OperationalError, match="of this age"):
        session.reset()
    assert session.closed
    assert not session.may_linger


def test_postgresql_itself_keeps_a_session_for_any_time(cluster: Cluster, target: Target) -> None:
    """Busy environments would open sessions without need."""
    clock = Ahead()
    with postgresql_opener(target).open(Fence(), NAME, None) as session:
        session._clock = clock
        clock.by_ms = 10 * 60 * MINUTE_MS
        session.reset()
        assert not session.closed


def test_a_burst_that_is_too_fast_is_tried_again_with_the_same_token(cluster: Cluster) -> None:
    """Of more than 1,000 environments that start at once, some fail their invocations."""
    cluster.proxy.too_fast, entropy = 3, AtOnce()
    opener_of(cluster, entropy=entropy).open(Fence(), NAME, None).close()
    assert entropy.draws == 3
    assert len(cluster.proxy.tokens) == 1


def test_one_that_stays_too_fast_is_an_error_with_its_code(cluster: Cluster) -> None:
    """The worker's author has to see that the rate is the limit, and no session lingers."""
    cluster.proxy.too_fast = 100
    session = opener_of(cluster).new_session(Fence(), NAME, None)
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        session.connect()
    session.close()
    assert not session.may_linger
    assert cluster.proxy.too_fast == 100 - 1 - len(PAUSES_MS)


@pytest.mark.parametrize("options", [{"settings": {"TimeZone": "UTC"}}, {"prepare_threshold": 1}])
def test_options_that_dsql_would_refuse_are_named(cluster: Cluster, options: dict[str, Any]) -> None:
    """The author would see an error of the server at each opening, or one that depends on the warm session."""
    with pytest.raises(InvalidRequest) as refused, governor_of(opener_of(cluster)).connection(**options):
        pass
    assert refused.value.field in options
