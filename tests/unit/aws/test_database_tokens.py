"""Tokens to sign in to a database, compared with botocore's and over time."""

import datetime as dt
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import pytest
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import (
    RequestSigner,
    dsql_generate_db_connect_admin_auth_token,
    dsql_generate_db_connect_auth_token,
    generate_db_auth_token,
)
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.aws.credentials import FixedCredentials
from connection_governor.aws.database_tokens import DatabaseTokens, dsql_request, rds_request
from connection_governor.aws.sigv4 import AwsCredentials
from tests.support.virtual import NOW_MS, VirtualClock

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
HOST = "orders.c1abcdefghij.eu-west-1.rds.amazonaws.com"
MINUTE_MS = 60_000
EMITTER = HierarchicalEmitter()  # the signer keeps only a weak reference


def by_botocore(host: str, port: int, user: str, region: str, credentials: AwsCredentials, now_ms: int) -> str:
    """Return the token that botocore makes at that time."""
    keys = BotocoreCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    signer = RequestSigner(ServiceId("rds"), region, "rds", "v4", keys, EMITTER)
    when = dt.datetime.fromtimestamp(now_ms // 1_000, dt.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=when):
        return str(generate_db_auth_token(SimpleNamespace(_request_signer=signer), host, port, user, region))


def ours(host: str, port: int, user: str, region: str, credentials: AwsCredentials, now_ms: int) -> str:
    source = FixedCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    return DatabaseTokens(rds_request(region, host, port, user), source, VirtualClock(now_ms)).current()


@pytest.mark.parametrize("user", ["worker", "Ärger", "o'brien+x@shop.example", "a b&c=d/%41~", "用户", "x" * 63])
@pytest.mark.parametrize("port", [3306, 5432, 443, 80, 65_535])
@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzEBY+/=="])
def test_a_token_is_the_one_that_botocore_makes(user: str, port: int, token: str | None) -> None:
    """The database refuses every sign-in, or only that of some users, ports or roles."""
    arguments = (HOST, port, user, "eu-west-1", AwsCredentials(KEY, SECRET, token), NOW_MS)
    assert ours(*arguments) == by_botocore(*arguments)


@pytest.mark.parametrize(
    "host", ["ORDERS.Example.com", "orders.cluster-ro-x.rds.cn-north-1.amazonaws.com.cn", "127.0.0.1"]
)
def test_the_host_is_signed_as_botocore_signs_it(host: str) -> None:
    """The database compares the host that was signed with its own name."""
    arguments = (host, 3306, "worker", "cn-north-1", AwsCredentials(KEY, SECRET), NOW_MS)
    assert ours(*arguments) == by_botocore(*arguments)


@given(
    user=st.text(min_size=1, max_size=32).filter(lambda text: text.isprintable()),
    token=st.none() | st.text("abcABC/+=", min_size=1, max_size=600),
    now_ms=st.integers(0, 4_102_444_800_000),
)
def test_so_is_any_token(user: str, token: str | None, now_ms: int) -> None:
    """Sign-ins fail on some days, or with some session tokens."""
    arguments = (HOST, 3306, user, "eu-west-1", AwsCredentials(KEY, SECRET, token), now_ms)
    assert ours(*arguments) == by_botocore(*arguments)


@pytest.mark.parametrize(
    ("user", "theirs"),
    [("admin", dsql_generate_db_connect_admin_auth_token), ("worker", dsql_generate_db_connect_auth_token)],
)
@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzEBY+/=="])
def test_a_token_of_dsql_is_the_one_that_botocore_makes(
    user: str, theirs: Callable[..., str], token: str | None
) -> None:
    """Aurora DSQL refuses every sign-in, or that of its administrator."""
    host = "abcdefghijklmnopqrst123456.dsql.us-east-1.on.aws"
    source = FixedCredentials(KEY, SECRET, token)
    ours = DatabaseTokens(dsql_request("us-east-1", host, user), source, VirtualClock(NOW_MS)).current()
    signer = RequestSigner(
        ServiceId("dsql"), "us-east-1", "dsql", "v4", BotocoreCredentials(KEY, SECRET, token), EMITTER
    )
    when = dt.datetime.fromtimestamp(NOW_MS // 1_000, dt.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=when):
        assert ours == theirs(SimpleNamespace(_request_signer=signer), host, "us-east-1")


class Source:
    """Credentials that a test exchanges."""

    def __init__(self) -> None:
        self.credentials = AwsCredentials(KEY, SECRET)

    def current(self) -> AwsCredentials:
        return self.credentials


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def tokens(source: Source, clock: VirtualClock) -> DatabaseTokens:
    return DatabaseTokens(rds_request("eu-west-1", HOST, 3306, "worker"), source, clock)


def test_a_token_is_kept_for_ten_of_its_fifteen_minutes(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """RDS throttles new tokens, not repeated ones; one that ends while the session opens is refused."""
    first = tokens.current()
    clock.advance(10 * MINUTE_MS - 1)
    assert tokens.current() == first
    clock.advance(1)
    assert tokens.current() != first


def test_it_is_made_anew_with_new_credentials(tokens: DatabaseTokens, source: Source, clock: VirtualClock) -> None:
    """A token ends with the session of the credentials that signed it, whatever its own time says."""
    first = tokens.current()
    clock.advance(1_000)
    source.credentials = AwsCredentials("AKIDOTHER", SECRET)
    assert "AKIDOTHER" in tokens.current()
    assert first != tokens.current()


def test_a_snapshot_does_not_restore_a_token(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """After a restore the monotonic clock goes on from where it stopped, and the token is long over."""
    first = tokens.current()
    clock.now += 3_600_000
    assert tokens.current() != first


def test_a_clock_that_was_set_back_does_not_keep_a_token(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """By the wall clock alone, an old token stays young."""
    first = tokens.current()
    clock.advance(9 * MINUTE_MS)
    clock.set_back(8 * MINUTE_MS)
    clock.advance(MINUTE_MS)
    assert tokens.current() != first
    clock.set_back(MINUTE_MS)
    second = tokens.current()
    clock.set_back(MINUTE_MS)
    assert tokens.current() != second


def test_a_refused_token_is_made_anew(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """A refused token is sent again and again until its ten minutes are over."""
    first = tokens.current()
    clock.advance(10_000)
    second = tokens.newer_than(first)
    assert second != first
    assert tokens.current() == second


def test_but_not_one_that_was_made_just_now(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """A refusal for the rate of sign-ins makes more new tokens, and so more refusals."""
    first = tokens.current()
    clock.advance(9_999)
    assert tokens.newer_than(first) == first


def test_another_threads_new_token_is_taken(tokens: DatabaseTokens, clock: VirtualClock) -> None:
    """Each thread makes a token of its own, and all of them count."""
    first = tokens.current()
    clock.advance(10_000)
    second = tokens.newer_than(first)
    clock.advance(1_000)
    assert tokens.newer_than(first) == second


def test_a_token_is_not_shown(tokens: DatabaseTokens) -> None:
    """Logs print values by their repr, and a token opens the database for a quarter of an hour."""
    tokens.current()
    assert "Signature" not in repr(tokens._kept)
