"""From variables to parts: each name of the contract, its default, and what is said where it is missing or wrong."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from connection_governor import wiring as env
from connection_governor.client.governor import Governor
from connection_governor.client.remote import RemoteGovernor
from connection_governor.core.lease import Grant, Wanted
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.server.service import Service
from connection_governor.wiring import Environment
from tests.scripted_server import ScriptedServer, answer
from tests.virtual import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
DIRECT = {**KEYS, "GOVERNOR_TABLE": "leases"}
REMOTE = {**KEYS, "GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "the-governor"}
MYSQL = {"DB_HOST": "db.example", "DB_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:1:secret:db"}


def missing(make: Callable[[], object]) -> str:
    """The name of the variable that is complained of."""
    with pytest.raises(InvalidRequest) as refused:
        make()
    return refused.value.field


def test_the_process_environment_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at import, a test or a warm function would keep yesterday's."""
    monkeypatch.setenv("GOVERNOR_TABLE", "first")
    here = Environment.current()
    monkeypatch.setenv("GOVERNOR_TABLE", "second")
    assert here.get("GOVERNOR_TABLE") == "first"
    assert Environment.current().get("GOVERNOR_TABLE") == "second"


def test_an_empty_variable_is_a_missing_one() -> None:
    """A template passes an empty string where nothing was chosen."""
    here = Environment({"GOVERNOR_TABLE": "", "DB_PORT": ""})
    assert missing(lambda: here.required("GOVERNOR_TABLE")) == "GOVERNOR_TABLE"
    assert here.number("DB_PORT", 3306) == 3_306


@pytest.mark.parametrize("text", ["ten", "-1", "1.5", "1e3", " "])
def test_a_number_that_is_none_is_refused_by_name(text: str) -> None:
    """A typing mistake in a template must be told by the variable's name."""
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
def test_what_is_missing_or_wrong_is_said_by_the_variables_name(variables: dict[str, str], name: str) -> None:
    """Whoever deploys reads it in the first line of the log."""
    assert missing(lambda: Governor(**env.governor_parts(Environment(variables)))) == name


@pytest.mark.parametrize(
    ("change", "name"),
    [({"DB_SECRET_ARN": ""}, "DB_SECRET_ARN"), ({"DB_TLS": "maybe"}, "DB_TLS"), ({"DB_PORT": "x"}, "DB_PORT")],
)
def test_what_the_database_needs_is_said_by_name_too(change: dict[str, str], name: str) -> None:
    """The same for the worker's own connection."""
    assert missing(lambda: env.opener(Environment({**DIRECT, **MYSQL, **change}))) == name


def test_direct_is_the_default_transport() -> None:
    """A table is all that such a worker needs."""
    assert isinstance(env.governor_parts(Environment(DIRECT))["transport"], Service)
    assert isinstance(env.governor_parts(Environment(REMOTE))["transport"], RemoteGovernor)


def test_parts_that_are_not_configured_are_not_made() -> None:
    """A worker that only leases needs no `DB_…` variable; one that invokes needs no table."""
    bare = env.governor_parts(Environment(REMOTE))["outside"]
    assert (bare.opener, bare.operations) == (None, None)
    whole = env.governor_parts(Environment({**DIRECT, **MYSQL}))["outside"]
    assert whole.opener is not None
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
    ],
)
def test_a_holder_is_the_function_and_what_tells_its_environments_apart(variables: dict[str, str], holder: str) -> None:
    """An operator finds the log stream of who holds a connection; the longest names stay within 64 characters."""
    assert Environment(variables).holder() == holder
    assert len(holder) <= 64


def test_outside_lambda_a_holder_is_the_host_and_the_process() -> None:
    """Two scripts on one machine are two holders."""
    holder = Environment({}).holder()
    assert holder.endswith(f"/{os.getpid()}")
    assert len(holder) <= 64


# The wire, from end to end

WANTED = Wanted("orders", "lease-01", "checkout/1", 1, NOW_MS)


def settings_item(shards: int = 1) -> dict[str, object]:
    numbers = {"allowed": 3, "shards": shards, "plan": 1, "lease_ms": 30_000, "skew_ms": 1_000, "shards_made": shards}
    return {"Item": {"pk": {"S": "orders"}, **{name: {"N": str(number)} for name, number in numbers.items()}}}


def shard_item(remaining: int) -> dict[str, object]:
    numbers = {"allowed": 3, "remaining": remaining, "fence": 7, "plan": 1}
    item: dict[str, object] = {name: {"N": str(number)} for name, number in numbers.items()}
    return {"Attributes": {"pk": {"S": "orders#0"}, **item, "leases": {"M": {}}}}


def test_a_direct_worker_talks_to_dynamodb_and_its_endpoint_can_be_overridden() -> None:
    """Local stacks and VPC endpoints are reached by one variable."""
    with ScriptedServer([answer(settings_item()), answer(shard_item(2))]) as server:
        service = env.service(Environment({**DIRECT, "AWS_ENDPOINT_URL_DYNAMODB": server.url}))
        grant = service.acquire(WANTED)
        service._engine._store._call._endpoint.close()  # type: ignore[attr-defined]
    assert isinstance(grant, Grant)
    assert (grant.lease.fence, grant.remaining) == (7, 2)
    targets = [request.headers.get("x-amz-target") for request in server.requests]
    assert targets == ["DynamoDB_20120810.GetItem", "DynamoDB_20120810.UpdateItem"]
    assert all("Credential=key/" in request.headers["authorization"] for request in server.requests)


def test_a_remote_worker_invokes_the_function() -> None:
    """It needs no right but `lambda:InvokeFunction`."""
    status = {"database": "orders", "allowed": 3, "in_use": 0, "remaining": 3, "leases": [], "shards": []}
    with ScriptedServer([answer(status)]) as server:
        remote = env.remote_governor(Environment({**REMOTE, "AWS_ENDPOINT_URL_LAMBDA": server.url}))
        assert remote.status("orders") == status
        remote._invoke._endpoint.close()  # type: ignore[attr-defined]
    (request,) = server.requests
    assert request.line.startswith("POST /2015-03-31/functions/the-governor/invocations")
    assert json.loads(request.body) == {"action": "status", "database": "orders"}


@pytest.mark.parametrize(
    ("code", "status"), [("ResourceNotFoundException", "404 Not Found"), ("AccessDeniedException", "403 Forbidden")]
)
def test_a_function_that_may_not_be_invoked_is_an_outage_that_is_not_retried(code: str, status: str) -> None:
    """A wrong name or a missing right cannot be waited for; the worker fails closed."""
    with ScriptedServer([answer({"__type": code, "message": "no"}, status)]) as server:
        remote = env.remote_governor(Environment({**REMOTE, "AWS_ENDPOINT_URL_LAMBDA": server.url}))
        with pytest.raises(GovernorUnavailable) as refused:
            remote.status("orders")
        remote._invoke._endpoint.close()  # type: ignore[attr-defined]
    assert not refused.value.passing
    assert len(server.requests) == 1


def test_a_secret_is_read_from_secrets_manager() -> None:
    """User and password come from there, and never from the environment."""
    with ScriptedServer([answer({"SecretString": '{"username":"u","password":"p"}'})]) as server:
        fetch = env.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert fetch("arn:secret") == '{"username":"u","password":"p"}'
        assert fetch._endpoint is not None
        fetch._endpoint.close()
    (request,) = server.requests
    assert request.headers["x-amz-target"] == "secretsmanager.GetSecretValue"
    assert json.loads(request.body) == {"SecretId": "arn:secret"}


def test_a_passing_fault_of_secrets_manager_is_passed_over() -> None:
    """One answer of 500 would fail an invocation that has a lease already."""
    fault = answer({"__type": "InternalServiceError"}, "500 Internal Server Error")
    with ScriptedServer([fault, answer({"SecretString": "{}"})]) as server:
        fetch = env.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert fetch("arn:secret") == "{}"
        assert fetch._endpoint is not None
        fetch._endpoint.close()


def test_a_binary_secret_is_said_by_the_variables_name() -> None:
    """A KeyError would tell nobody which secret, nor what is wrong with it."""
    with ScriptedServer([answer({"SecretBinary": "eA=="})]) as server:
        fetch = env.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert missing(lambda: fetch("arn:secret")) == "DB_SECRET_ARN"
        assert fetch._endpoint is not None
        fetch._endpoint.close()


def test_a_secret_that_cannot_be_read_is_said_by_the_variables_name() -> None:
    """A missing right shows at the first connection: it must say which secret's."""
    refusal = answer({"__type": "AccessDeniedException", "message": "not yours"}, "400 Bad Request")
    with ScriptedServer([refusal]) as server:
        fetch = env.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert missing(lambda: fetch("arn:secret")) == "DB_SECRET_ARN"
        assert fetch._endpoint is not None
        fetch._endpoint.close()
