"""How the seed answers CloudFormation."""

from __future__ import annotations

import json
import threading
import urllib.error
from typing import Any

import pytest

from connection_governor.server import custom_resource
from connection_governor.server.custom_resource import NEVER_MADE, ResourceAnswer

Event = dict[str, Any]


class Mailbox:
    """Keeps every message."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, dict[str, Any]]] = []
        self.arrived = threading.Event()

    def __call__(self, url: str, body: bytes) -> None:
        self.letters.append((url, json.loads(body)))
        self.arrived.set()


def test_a_success_names_the_physical_id_and_echoes_the_request(request_to_create: Event) -> None:
    """Without the echoed ids CloudFormation ignores the answer, and the stack hangs until its time-out."""
    box = Mailbox()
    ResourceAnswer(request_to_create, box).succeed("seed-of-0a1b2c")
    assert box.letters == [
        (
            request_to_create["ResponseURL"],
            {
                "Status": "SUCCESS",
                "Reason": "",
                "PhysicalResourceId": "seed-of-0a1b2c",
                "Data": {},
                "StackId": request_to_create["StackId"],
                "RequestId": "r-1",
                "LogicalResourceId": "Seed",
            },
        ),
    ]


def test_a_failed_creation_is_marked_as_never_made(request_to_create: Event) -> None:
    """The rollback's delete would try to remove what does not exist, fail, and leave the stack stuck."""
    box = Mailbox()
    ResourceAnswer(request_to_create, box).fail("no room")
    assert (box.letters[0][1]["Status"], box.letters[0][1]["PhysicalResourceId"]) == ("FAILED", NEVER_MADE)


def test_a_failed_update_keeps_the_physical_id(request_to_create: Event) -> None:
    """Another id would make CloudFormation take it for a replacement, and delete the live database's seed."""
    box = Mailbox()
    ResourceAnswer({**request_to_create, "PhysicalResourceId": "seed-of-0a1b2c"}, box).fail("no room")
    assert box.letters[0][1]["PhysicalResourceId"] == "seed-of-0a1b2c"


def test_a_long_reason_still_fits_into_an_answer(request_to_create: Event) -> None:
    """CloudFormation takes 4,096 bytes; a longer answer is refused, and the stack hangs until its time-out."""
    sent: list[bytes] = []
    ResourceAnswer(request_to_create, lambda _url, body: sent.append(body)).fail("no room " * 10_000)
    assert len(sent[0]) <= 4_096
    assert json.loads(sent[0])["Reason"].startswith("no room")


def test_only_the_first_answer_is_sent(request_to_create: Event) -> None:
    """Two answers could tell CloudFormation of a failure after a success."""
    box = Mailbox()
    answer = ResourceAnswer(request_to_create, box)
    answer.fail("ran out of time")
    answer.succeed("seed-of-0a1b2c")
    assert [letter["Status"] for _, letter in box.letters] == ["FAILED"]


def test_work_that_takes_too_long_is_answered_while_it_still_runs(request_to_create: Event) -> None:
    """A function that is stopped by its time-out answers nothing: the stack would wait for a minute, in vain."""
    box = Mailbox()
    with ResourceAnswer(request_to_create, box).within(0):
        assert box.arrived.wait(10)
    assert box.letters[0][1]["Reason"] == "ran out of time"


def test_work_that_ends_in_time_is_not_answered_for(request_to_create: Event) -> None:
    """A watch left running would fail a stack that is fine."""
    before = set(threading.enumerate())
    with ResourceAnswer(request_to_create, Mailbox()).within(3600):
        (watch,) = set(threading.enumerate()) - before
    watch.join(10)
    assert not watch.is_alive()


def test_an_answer_that_is_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed PUT would leave the stack waiting for its time-out."""
    sent = _failing(monkeypatch, times=2)
    custom_resource.put_with_retries("https://answers.example/", b"{}")
    assert len(sent) == 3


def test_an_answer_that_never_arrives_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log must show why the stack hangs."""
    _failing(monkeypatch, times=99)
    with pytest.raises(urllib.error.URLError):
        custom_resource.put_with_retries("https://answers.example/", b"{}")


def _failing(monkeypatch: pytest.MonkeyPatch, *, times: int) -> list[object]:
    sent: list[object] = []

    class Response:
        def close(self) -> None:
            """Close nothing."""

    def urlopen(request: object, timeout: float) -> Response:
        sent.append(request)
        if len(sent) <= times:
            raise urllib.error.URLError("down")
        return Response()

    monkeypatch.setattr("connection_governor.server.custom_resource.urllib.request.urlopen", urlopen)
    monkeypatch.setattr("connection_governor.server.custom_resource.time.sleep", lambda _seconds: None)
    return sent
