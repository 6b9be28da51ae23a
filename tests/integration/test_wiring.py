"""From variables to requests on the wire: what each part that wiring makes sends, and what it makes of the answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from connection_governor.core.lease import Grant, Wanted
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.wiring import Environment, database, function, table
from tests.support.answers import settings_item, shard_item
from tests.support.scripted_server import ScriptedServer, answer
from tests.support.virtual import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
DIRECT = {**KEYS, "GOVERNOR_TABLE": "leases"}
REMOTE = {**KEYS, "GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "the-governor"}


def missing(make: Callable[[], object]) -> str:
    """Return the name of the variable in the error."""
    with pytest.raises(InvalidRequest) as refused:
        make()
    return refused.value.field


WANTED = Wanted("orders", "lease-01", "checkout/1", 1, NOW_MS)


def test_a_direct_worker_talks_to_dynamodb_and_its_endpoint_can_be_overridden() -> None:
    """Local stacks and VPC endpoints are reached by one variable."""
    with ScriptedServer([answer(settings_item()), answer(shard_item(2))]) as server:
        service = table.transport(Environment({**DIRECT, "AWS_ENDPOINT_URL_DYNAMODB": server.url}))
        grant = service.acquire(WANTED)
        service._engine._store._send._endpoint.close()  # type: ignore[attr-defined]
    assert isinstance(grant, Grant)
    assert (grant.lease.fence, grant.remaining) == (7, 2)
    targets = [request.headers.get("x-amz-target") for request in server.requests]
    assert targets == ["DynamoDB_20120810.GetItem", "DynamoDB_20120810.UpdateItem"]
    assert all("Credential=key/" in request.headers["authorization"] for request in server.requests)


def test_a_remote_worker_invokes_the_function() -> None:
    """It needs no right but `lambda:InvokeFunction`."""
    status = {"database": "orders", "allowed": 3, "in_use": 0, "remaining": 3, "leases": [], "shards": []}
    with ScriptedServer([answer(status)]) as server:
        remote = function.transport(Environment({**REMOTE, "AWS_ENDPOINT_URL_LAMBDA": server.url}))
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
        remote = function.transport(Environment({**REMOTE, "AWS_ENDPOINT_URL_LAMBDA": server.url}))
        with pytest.raises(GovernorUnavailable) as refused:
            remote.status("orders")
        remote._invoke._endpoint.close()  # type: ignore[attr-defined]
    assert not refused.value.retryable
    assert len(server.requests) == 1


def test_a_secret_is_read_from_secrets_manager() -> None:
    """User and password come from there, and never from the environment."""
    with ScriptedServer([answer({"SecretString": '{"username":"u","password":"p"}'})]) as server:
        fetch = database.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
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
        fetch = database.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert fetch("arn:secret") == "{}"
        assert fetch._endpoint is not None
        fetch._endpoint.close()


def test_a_binary_secret_is_reported_by_its_variable() -> None:
    """A KeyError would name neither the secret nor its fault."""
    with ScriptedServer([answer({"SecretBinary": "eA=="})]) as server:
        fetch = database.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert missing(lambda: fetch("arn:secret")) == "DB_SECRET_ARN"
        assert fetch._endpoint is not None
        fetch._endpoint.close()


def test_a_secret_that_cannot_be_read_is_reported_by_its_variable() -> None:
    """A missing right shows at the first connection: it must say which secret's."""
    refusal = answer({"__type": "AccessDeniedException", "message": "not yours"}, "400 Bad Request")
    with ScriptedServer([refusal]) as server:
        fetch = database.secret_fetcher(Environment({**DIRECT, "AWS_ENDPOINT_URL_SECRETS_MANAGER": server.url}))
        assert missing(lambda: fetch("arn:secret")) == "DB_SECRET_ARN"
        assert fetch._endpoint is not None
        fetch._endpoint.close()
