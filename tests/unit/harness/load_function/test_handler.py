"""The harness function against a Lambda that a test makes up."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from harness.load_function.load import handler, invocation

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = dict[str, Any]


class FakeLambda:
    """Counts calls, and how many are in flight; gives prepared answers."""

    def __init__(self, answer: Callable[[int], Answer], *, together: int = 1) -> None:
        self._answer = answer
        self._together = threading.Barrier(together)
        self._lock = threading.Lock()
        self.calls: list[Answer] = []
        self.in_flight = self.most_in_flight = 0

    def invoke(self, **call: Any) -> Answer:  # noqa: ANN401  # as boto3
        """Return one invocation; the first few wait for each other, so that they are in flight at the same time."""
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        if number <= self._together.parties:
            self._together.wait(timeout=10)
        with self._lock:
            self.in_flight -= 1
        return self._answer(number)


class FakeContext:
    """Runs out of time after so many calls."""

    def __init__(self, looks: int = 10**6) -> None:
        self._looks = looks

    def get_remaining_time_in_millis(self) -> int:
        """Return plenty of time, then none."""
        self._looks -= 1
        return 900_000 if self._looks >= 0 else 0


def _granted(_number: int) -> Answer:
    return {"Payload": io.BytesIO(json.dumps({"outcome": "granted"}).encode())}


def _run(
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[int], Answer],
    *,
    looks: int = 10**6,
    together: int = 1,
    **event: object,
) -> tuple[Answer, FakeLambda]:
    fake = FakeLambda(answer, together=together)
    monkeypatch.setenv("WORKER_FUNCTION", "worker")
    monkeypatch.setenv("WORKER_TIMEOUT_SECONDS", "30")
    monkeypatch.setattr("boto3.client", lambda *_, **__: fake)
    return handler.handler(event, FakeContext(looks)), fake


@pytest.mark.parametrize(("profile", "together"), [("steady", 7), ("burst", 7), ("ramp", 1)])
def test_exactly_the_asked_number_is_invoked_at_the_asked_concurrency(
    profile: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published sample's harness made one call fewer than asked."""
    report, fake = _run(monkeypatch, _granted, together=together, iterations=60, concurrency=7, profile=profile)
    assert (report["requested"], report["invocations"], report["granted"], len(fake.calls)) == (60, 60, 60, 60)
    assert together <= fake.most_in_flight <= 7


def test_every_kind_of_end_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invocation that ends in an unforeseen way vanishes from the account."""

    def answer(number: int) -> Answer:
        if number % 5 == 0:
            raise ClientError({"Error": {"Code": "TooManyRequestsException", "Message": ""}}, "Invoke")
        if number % 5 == 1:
            raise ReadTimeoutError(endpoint_url="http://lambda")
        if number % 5 == 2:
            return {"FunctionError": "Unhandled", "Payload": io.BytesIO(b"{}")}
        if number % 5 == 3:
            return {"Payload": io.BytesIO(b"not json")}
        raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": ""}}, "Invoke")

    report, _ = _run(monkeypatch, answer, iterations=50, concurrency=5)
    assert (report["invocations"], report["throttled"], report["errors"], report["granted"]) == (50, 10, 40, 0)
    assert report["error_reasons"]["ResourceNotFoundException"] == 10


def test_it_stops_in_time_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness that is stopped by its own time-out loses the account of everything it did."""
    report, fake = _run(monkeypatch, _granted, iterations=100, concurrency=4, looks=10)
    assert (report["requested"], report["invocations"], report["not_started"], len(fake.calls)) == (100, 10, 90, 10)


def test_bad_input_invokes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error is answered at once, with the field to correct."""
    report, fake = _run(monkeypatch, _granted, iterations=-3)
    assert (report["error"]["field"], fake.calls) == ("iterations", [])


def test_the_client_never_retries_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden retry invokes the worker twice and is counted once."""
    for name in ("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # else boto3 asks the network
        monkeypatch.setenv(name, "eu-west-1")
    config: Any = invocation.Worker("worker", timeout_ms=30_000, concurrency=40)._client.meta.config
    assert config.retries["total_max_attempts"] == 1
    assert config.max_pool_connections == 40
    assert config.read_timeout == 40.0
