"""The governor's handler: one request, one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import governor
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.metrics import Reporter
from connection_governor.server.payloads import Requests
from connection_governor.server.service import Service
from tests.support.virtual import Journal, SetEntropy, VirtualClock

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@pytest.fixture(autouse=True)
def orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a governor over memory, with a budget of one."""
    store, clock, entropy = MemoryStore(), VirtualClock(), SetEntropy()
    operations = Operations(store, clock, entropy)
    operations.set_budget("Prod_MySQL", 1)
    service = Service(Engine(store, clock, entropy), lambda: operations, Reporter(Journal()), clock)
    monkeypatch.setattr(governor, "requests", lambda: Requests(service, clock, entropy))


def test_a_request_is_answered(context: LambdaContext) -> None:
    """The function is how other languages reach the governor."""
    answer = governor.handler({"action": "acquire", "database": "Prod_MySQL"}, context)
    assert isinstance(answer, dict)
    assert answer["granted"]


def test_the_published_samples_payload_is_answered_with_true_and_false(context: LambdaContext) -> None:
    """Workers of the sample take any answer but `false` for a grant."""
    take, give = ({"incrementCounter": increment, "RDBMSName": "Prod_MySQL"} for increment in (True, False))
    answers = [governor.handler(payload, context) for payload in (take, take, give, take)]
    assert answers == [True, False, True, True]


def test_bad_input_is_answered_and_logged(context: LambdaContext, caplog: pytest.LogCaptureFixture) -> None:
    """An operator who looks for the caller's mistake finds it in the function's log."""
    answer = governor.handler({"action": "steal"}, context)
    assert isinstance(answer, dict)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("invalid_request", "action")
    assert "not carried out" in caplog.text
