"""From variables to parts: each name of the contract, its default, and the error if it is missing or wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from connection_governor import wiring as env
from connection_governor.client.governor import Governor
from connection_governor.client.remote import RemoteGovernor
from connection_governor.errors import InvalidRequest, NoConnectionsLeft
from connection_governor.server.service import Service
from connection_governor.wiring import Environment, mysql

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
DIRECT = {**KEYS, "GOVERNOR_TABLE": "leases"}
REMOTE = {**KEYS, "GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "the-governor"}
MYSQL = {"DB_HOST": "db.example", "DB_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:1:secret:db"}


def missing(make: Callable[[], object]) -> str:
    """Return the name of the variable in the error."""
    with pytest.raises(InvalidRequest) as refused:
        make()
    return refused.value.field


def test_the_process_environment_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at import, a test or a warm function would keep yesterday's."""
    monkeypatch.setenv("GOVERNOR_TABLE", "first")
    environment = Environment.current()
    monkeypatch.setenv("GOVERNOR_TABLE", "second")
    assert environment.get("GOVERNOR_TABLE") == "first"
    assert Environment.current().get("GOVERNOR_TABLE") == "second"


def test_an_empty_variable_is_a_missing_one() -> None:
    """A template passes an empty string where nothing was chosen."""
    environment = Environment({"GOVERNOR_TABLE": "", "DB_PORT": ""})
    assert missing(lambda: environment.required("GOVERNOR_TABLE")) == "GOVERNOR_TABLE"
    assert environment.number("DB_PORT", 3306) == 3_306


@pytest.mark.parametrize("text", ["ten", "-1", "1.5", "1e3", " "])
def test_a_number_that_is_none_is_refused_by_name(text: str) -> None:
    """An error about a typing mistake in a template must name the variable."""
    assert missing(lambda: Environment({"DB_PORT": text}).number("DB_PORT", 1)) == "DB_PORT"


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({**KEYS}, "GOVERNOR_TABLE"),
        ({**DIRECT, "GOVERNOR_TRANSPORT": "lamdba"}, "GOVERNOR_TRANSPORT"),
        ({**KEYS, "GOVERNOR_TRANSPORT": "lambda"}, "GOVERNOR_FUNCTION"),
        ({"GOVERNOR_TABLE": "leases"}, "AWS_REGION"),
        ({**DIRECT, "GOVERNOR_ON_UNAVAILABLE": "ignore"}, "GOVERNOR_ON_UNAVAILABLE"),
        ({**DIRECT, "GOVERNOR_KEEP_SECONDS": "long"}, "GOVERNOR_KEEP_SECONDS"),
        ({**DIRECT, "GOVERNOR_KEEP_SECONDS": "901"}, "GOVERNOR_KEEP_SECONDS"),
        ({**DIRECT, "AWS_ENDPOINT_URL": "localhost"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_a_missing_or_wrong_variable_is_named(variables: dict[str, str], name: str) -> None:
    """The deploying user reads it in the first line of the log."""
    assert missing(lambda: Governor(**env.governor_parts(Environment(variables)))) == name


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"DB_SECRET_ARN": ""}, "DB_SECRET_ARN"),
        ({"DB_TLS": "maybe"}, "DB_TLS"),
        ({"DB_PORT": "x"}, "DB_PORT"),
        ({"DB_PORT": "99999"}, "DB_PORT"),
        ({"DB_AUTH": "ian"}, "DB_AUTH"),
        ({"DB_AUTH": "iam"}, "DB_USER"),
        ({"DB_AUTH": "iam", "DB_USER": "worker", "DB_TLS": "off"}, "DB_TLS"),
    ],
)
def test_a_missing_database_variable_is_named(change: dict[str, str], name: str) -> None:
    """The same for the worker's own connection."""
    assert missing(lambda: mysql.opener(Environment({**DIRECT, **MYSQL, **change}))) == name


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("db.example", "eu-central-1"),
        ("orders.c1.us-east-1.rds.amazonaws.com", "us-east-1"),
        ("orders.c1.rds.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ],
)
@pytest.mark.parametrize("engine", ["mysql", "postgresql"])
def test_by_iam_no_secret_is_named_and_the_token_is_for_the_databases_region(
    engine: str, host: str, region: str
) -> None:
    """A database in another region refuses every token that names the worker's own."""
    variables = {**DIRECT, "DB_ENGINE": engine, "DB_HOST": host, "DB_AUTH": "iam", "DB_USER": "worker"}
    opener = env.opener(Environment(variables))
    login = next(opener.attempts()())  # type: ignore[attr-defined]
    assert (login.username, login.is_token) == ("worker", True)
    assert login.password.startswith(
        f"{host}:{5432 if engine == 'postgresql' else 3306}/?Action=connect&DBUser=worker&"
    )
    assert f"%2F{region}%2Frds-db%2Faws4_request" in login.password


CLUSTER = {"DB_ENGINE": "dsql", "DB_HOST": "abc123.dsql.us-east-2.on.aws", "DB_USER": "worker"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"DB_USER": ""}, "DB_USER"),
        ({"DB_AUTH": "secret"}, "DB_AUTH"),
        ({"DB_TLS": "off"}, "DB_TLS"),
        ({"DB_ROLE": "writer"}, "DB_ROLE"),
    ],
)
def test_what_dsql_does_not_know_is_named(change: dict[str, str], name: str) -> None:
    """The author reads it in the first line of the log, and not as an error of the server."""
    assert missing(lambda: env.opener(Environment({**DIRECT, **CLUSTER, **change}))) == name


@pytest.mark.parametrize(
    ("change", "region", "action"),
    [
        ({}, "us-east-2", "DbConnect&"),
        ({"DB_USER": "admin"}, "us-east-2", "DbConnectAdmin&"),
        ({"DB_HOST": "cluster.example"}, "eu-central-1", "DbConnect&"),
    ],
)
def test_dsql_gets_tokens_of_its_own_kind(change: dict[str, str], region: str, action: str) -> None:
    """Each sign-in is refused: the token names another service, region or action."""
    variables = {**DIRECT, **CLUSTER, **change}
    opener = env.opener(Environment(variables))
    login = next(opener.attempts()())  # type: ignore[attr-defined]
    assert login.password.startswith(f"{variables['DB_HOST']}/?Action={action}")
    assert f"%2F{region}%2Fdsql%2Faws4_request" in login.password


def test_dsql_has_no_janitor_and_no_seed() -> None:
    """They would fail at each round, without a word about why."""
    assert missing(lambda: env.watch(Environment({**DIRECT, **CLUSTER}))) == "DB_ENGINE"
    assert missing(lambda: env.administration(Environment({**DIRECT, **CLUSTER}))) == "DB_ENGINE"


def test_direct_is_the_default_transport() -> None:
    """A table is all that such a worker needs."""
    assert isinstance(env.governor_parts(Environment(DIRECT))["transport"], Service)
    assert isinstance(env.governor_parts(Environment(REMOTE))["transport"], RemoteGovernor)


def test_parts_that_are_not_configured_are_not_made() -> None:
    """A worker that only leases needs no `DB_…` variable; one that invokes needs no table."""
    bare = env.governor_parts(Environment(REMOTE))["dependencies"]
    assert (bare.make_opener, bare.operations) == (None, None)
    whole = env.governor_parts(Environment({**DIRECT, **MYSQL}))["dependencies"]
    assert whole.make_opener is not None
    assert whole.operations is not None


def test_the_defaults_are_the_contracts() -> None:
    """A changed default changes every fleet that relied on it."""
    parts = env.governor_parts(Environment(DIRECT))
    assert (parts["on_unavailable"], parts["keep_seconds"], parts["database"]) == ("raise", 0, None)
    chosen = {"GOVERNOR_ON_UNAVAILABLE": "open", "GOVERNOR_KEEP_SECONDS": "30", "GOVERNOR_DATABASE": "orders"}
    parts = env.governor_parts(Environment(DIRECT | chosen))
    assert (parts["on_unavailable"], parts["keep_seconds"], parts["database"]) == ("open", 30, "orders")


@pytest.mark.parametrize(
    ("variables", "holder"),
    [
        (
            {
                "AWS_LAMBDA_FUNCTION_NAME": "checkout",
                "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[1]0123456789abcdef",
            },
            "checkout/89abcdef",
        ),
        ({"AWS_LAMBDA_FUNCTION_NAME": "x" * 64, "AWS_LAMBDA_LOG_STREAM_NAME": "0123456789"}, "x" * 55 + "/23456789"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "checkout"}, f"checkout/{os.getpid()}"),
        (
            {
                "AWS_LAMBDA_FUNCTION_NAME": "x" * 64,
                "AWS_LAMBDA_LOG_STREAM_NAME": "0123456789",
                "AWS_LAMBDA_MAX_CONCURRENCY": "16",
            },
            f"{'x' * 47}/23456789.{os.getpid()}",
        ),
    ],
)
def test_a_holder_is_the_function_and_what_tells_its_environments_apart(variables: dict[str, str], holder: str) -> None:
    """An operator finds the log stream of a holder; the longest names stay within 64 characters."""
    assert Environment(variables).holder() == holder
    assert len(holder) <= 64


def test_a_function_that_starts_from_a_snapshot_has_a_new_name_each_time() -> None:
    """There, all environments have one process number and no log stream: they would be one holder."""
    snapshot = {"AWS_LAMBDA_FUNCTION_NAME": "checkout", "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    assert Environment(snapshot).holder() != Environment(snapshot).holder()


def test_only_where_one_process_serves_one_request_does_the_deadline_stop_it() -> None:
    """On Managed Instances a lease ends while its timed-out invocation still runs a statement."""
    assert env.governor_parts(Environment(DIRECT))["dependencies"].stops_at_deadline
    managed = Environment({**DIRECT, "AWS_LAMBDA_MAX_CONCURRENCY": "16"})
    assert not env.governor_parts(managed)["dependencies"].stops_at_deadline


def test_closing_an_environment_closes_what_it_keeps_open() -> None:
    """A snapshot of the process holds sockets that every copy of it would write to."""
    closed = []
    environment = Environment(DIRECT)
    endpoint = environment.endpoint("dynamodb")
    endpoint._idle.append((0, 0, type("Kept", (), {"close": lambda _: closed.append(1)})()))
    environment.close()
    assert closed == [1]


def test_outside_lambda_a_holder_is_the_host_and_the_process() -> None:
    """Two scripts on one machine are two holders."""
    holder = Environment({}).holder()
    assert holder.endswith(f"/{os.getpid()}")
    assert len(holder) <= 64


def test_a_transport_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another store, or another way to reach one, would need changes in three places."""
    monkeypatch.setitem(env.TRANSPORTS, "memory", "tests.support.memory_transport")
    environment = Environment({"GOVERNOR_TRANSPORT": "memory", "GOVERNOR_DATABASE": "orders"})
    governor = Governor(**env.governor_parts(environment))
    assert governor.acquire().database == "orders"
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()


def test_an_unknown_kind_of_database_is_refused_by_name() -> None:
    """A worker for another database would open sessions with MySQL's driver."""
    parts = env.governor_parts(Environment({**DIRECT, **MYSQL, "DB_ENGINE": "oracle"}))
    assert missing(parts["dependencies"].make_opener) == "DB_ENGINE"
