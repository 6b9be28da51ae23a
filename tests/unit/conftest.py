"""What unit tests share: a Lambda context, and CloudFormation's request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.invocation import FakeContext

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
