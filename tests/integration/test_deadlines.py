"""A service that accepts connections and never answers: no worker waits for it beyond its invocation's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import governor as function
from connection_governor import wiring as env
from connection_governor.client.governor import Governor
from connection_governor.core.lease import Lease
from connection_governor.errors import GovernorUnavailable
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from tests.support.invocation import Invocation
from tests.support.scripted_server import ScriptedServer, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEFT_MS = 700
SLACK_S = 0.5  # of a busy machine; without a deadline each of these takes two seconds at least
LEASE = Lease("k3Zq81Bd", "orders", "checkout/1", 1, 1, SYSTEM_CLOCK.now_ms() + 600_000, 0)


@pytest.fixture
def silent() -> Iterator[dict[str, str]]:
    """Yield the variables of a worker whose every AWS service is silent."""
    with ScriptedServer([Silence()] * 8) as server:
        yield {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "GOVERNOR_TABLE": "leases",
            "GOVERNOR_FUNCTION": "governor",
            "GOVERNOR_DATABASE": "orders",
        }


VERBS: dict[str, Callable[[Governor, Any], object]] = {
    "acquire, one try": lambda governor, context: governor.acquire(context=context),
    "acquire, waiting": lambda governor, context: governor.acquire(timeout=2.0, context=context),
    "renew": lambda governor, context: governor.renew(LEASE, context=context),
    "release": lambda governor, context: governor.release(LEASE, context=context),
    "status": lambda governor, context: governor.status(context=context),
}


@pytest.mark.parametrize("transport", ["direct", "lambda"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_silent_service_is_given_up_before_the_deadline(silent: dict[str, str], transport: str, verb: str) -> None:
    """Lambda kills the worker where an error was promised, and what it was to do in an outage is not done."""
    governor = Governor(**env.governor_parts(Environment({**silent, "GOVERNOR_TRANSPORT": transport})))
    context = Invocation(LEFT_MS / 1_000)
    with pytest.raises(GovernorUnavailable):
        VERBS[verb](governor, context)
    assert context.overrun_s() < SLACK_S


def test_the_function_answers_before_it_is_killed(silent: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The published sample's workers take Lambda's error object, as everything but `false`, for a grant."""
    for name, value in silent.items():
        monkeypatch.setenv(name, value)
    function.requests.cache_clear()
    context: Any = Invocation(LEFT_MS / 1_000)
    answer = function.handler({"incrementCounter": True, "RDBMSName": "orders"}, context)
    function.requests.cache_clear()
    assert answer is False
    assert context.overrun_s() < SLACK_S
