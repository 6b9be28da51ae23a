"""The seed's handler: it always answers, and says nothing that is secret."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymysql import err

import seed
from connection_governor.server import custom_resource, seed_properties
from connection_governor.server.ports import SeedError
from connection_governor.server.seed_request import Seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_lambda_powertools.utilities.typing import LambdaContext

Event = dict[str, Any]
PASSWORD = "s3cr3t-of-the-worker"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the answers that went out."""
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "connection_governor.server.custom_resource.put_with_retries",
        lambda _url, body: answers.append(json.loads(body)),
    )
    return answers


@pytest.mark.parametrize(
    "error",
    [
        SeedError("cannot connect"),
        err.ProgrammingError(1064, f"near 'IDENTIFIED BY '{PASSWORD}''"),
        KeyError("Allowed"),
        RuntimeError(PASSWORD),
    ],
)
def test_every_failure_is_answered_and_no_secret_is_shown(
    error: Exception,
    request_to_create: Event,
    context: LambdaContext,
    sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A stack that waits for an answer blocks its owner for an hour; a password in a log outlives every rotation."""

    def fails(event: Event, _seeder: object) -> str:
        raise error

    monkeypatch.setattr(seed, "carry_out", fails)
    seed.handler(request_to_create, context)
    assert [answer["Status"] for answer in sent] == ["FAILED"]
    logged = [seed.logger.registered_handler.format(record) for record in caplog.records]
    shown = json.dumps([logged, sent])
    assert logged
    assert PASSWORD not in shown
    assert request_to_create["ResponseURL"] not in shown


def test_the_log_tells_where_an_unexpected_error_came_from(
    request_to_create: Event,
    context: LambdaContext,
    sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer sends the operator to the log, where a class's name alone explains nothing."""
    del request_to_create["ResourceProperties"]["Allowed"]
    seed.handler(request_to_create, context)
    assert sent[0]["Reason"] == "KeyError, see the function's log"
    (record,) = caplog.records
    *_, innermost = json.loads(seed.logger.registered_handler.format(record))["at"]
    file, line = innermost.split(":")
    assert file == "seed_properties.py"
    assert '"Allowed"' in Path(seed_properties.__file__).read_text().splitlines()[int(line) - 1]


def test_the_reason_of_a_refusal_reaches_the_operator(
    request_to_create: Event, context: LambdaContext, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`see the log` in place of the reason costs the operator a search."""
    monkeypatch.setattr(
        seed, "carry_out", lambda _event, _seeder: (_ for _ in ()).throw(SeedError("AllowedConnections is 50"))
    )
    seed.handler(request_to_create, context)
    assert sent[0]["Reason"] == "AllowedConnections is 50"


def test_the_daily_event_touches_nothing(sent: list[dict[str, Any]], context: LambdaContext) -> None:
    """An event without properties or a URL to answer raises each day, and keeps nothing active."""
    seed.handler({"RequestType": seed.KEEP_ACTIVE}, context)
    assert sent == []


def test_the_answer_goes_out_before_lambda_stops_the_function(
    request_to_create: Event, context: LambdaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not answer costs the stack's owner CloudFormation's whole time-out."""
    allowed_s: list[float] = []

    class Watched(custom_resource.ResourceAnswer):
        @contextmanager
        def within(self, seconds: float) -> Iterator[None]:
            allowed_s.append(seconds)
            yield

    monkeypatch.setattr(seed, "ResourceAnswer", Watched)
    monkeypatch.setattr(custom_resource, "put_with_retries", lambda _url, _body: None)
    monkeypatch.setattr(seed, "carry_out", lambda _event, _seeder: Seeded("seed-of-0a1b2c"))
    seed.handler(request_to_create, context)
    assert allowed_s == [25.0]
