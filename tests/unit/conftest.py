"""What unit tests share: a Lambda context, CloudFormation's request, and no way out of the process."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import Any, NoReturn

import pytest

from tests.support.invocation import FakeContext

LEAVES_THE_PROCESS = [
    (socket.socket, "bind"),
    (socket.socket, "connect"),
    (subprocess.Popen, "__init__"),
    (os, "fork"),
]


@pytest.fixture(autouse=True)
def nothing_leaves_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse sockets, processes and real waiting: what needs them stands in tests/integration."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError(
            "a unit test opens no socket, starts no process and waits for nothing: see tests/integration"
        )

    def sleep(seconds: float) -> None:
        if seconds > 0:
            refuse()

    for owner, name in LEAVES_THE_PROCESS:
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(time, "sleep", sleep)


ANSWER_URL = "https://answers.example/?X-Amz-Signature=5ec2e7"


@pytest.fixture
def request_to_create() -> dict[str, Any]:
    """Return what CloudFormation sends when the stack is created."""
    return {
        "RequestType": "Create",
        "ResponseURL": ANSWER_URL,
        "StackId": "arn:aws:cloudformation:eu-west-1:111122223333:stack/shop/0a1b2c",
        "RequestId": "r-1",
        "LogicalResourceId": "Seed",
        "ResourceProperties": {
            "Database": "orders",
            "Allowed": "7",
            "LeaseMs": "30000",
            "SkewMs": "1000",
            "AnonymousLeaseMs": "900000",
            "Host": "db.example",
            "Port": "3306",
            "Schema": "company",
            "Tls": "verify",
            "AdministratorSecretArn": "arn:admin",
            "WorkerSecretArn": "arn:worker",
            "WorkerUser": "governed_worker",
            "MonitorSecretArn": "arn:monitor",
            "MonitorUser": "governor_monitor",
            "OnDelete": "keep",
        },
    }


@pytest.fixture
def context() -> FakeContext:
    """Return a context with half a minute left."""
    return FakeContext()
