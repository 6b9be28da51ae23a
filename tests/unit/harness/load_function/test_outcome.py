"""What one invocation came to."""

from __future__ import annotations

import base64
import json

import pytest

from harness.load_function.load.outcome import of_answer, of_failure

HELD = {
    "worker": "holding",
    "lease_id": "k3Zq81Bd",
    "pid": 7,
    "held_from_ms": 100,
    "expires_at_ms": 900,
    "acquire_ms": 4,
}


def _tail(*lines: str) -> str:
    return base64.b64encode("\n".join(lines).encode()).decode()


@pytest.mark.parametrize("kind", ["granted", "refused", "error"])
def test_the_workers_own_word_is_taken(kind: str) -> None:
    """Granted, refused and errors are counted by what the worker says happened."""
    assert of_answer({"outcome": kind}, started_ms=1).kind == kind


@pytest.mark.parametrize("answer", [{}, {"outcome": "fine"}, {"statusCode": 200}])
def test_an_answer_without_an_outcome_is_an_error(answer: dict[str, object]) -> None:
    """The published sample took anything for success."""
    assert of_answer(answer, started_ms=1).kind == "error"


def test_a_worker_that_died_while_it_held_was_granted() -> None:
    """A drill's victim counts as granted and as crashed: else the account would not add up."""
    crashing = json.dumps({**HELD, "worker": "crashing", "held_to_ms": 300})
    outcome = of_failure({}, _tail("START", json.dumps(HELD), crashing), started_ms=1, ended_ms=400)
    assert (outcome.kind, outcome.crashed, outcome.lease_id) == ("granted", True, "k3Zq81Bd")
    assert (outcome.held_from_ms, outcome.held_to_ms) == (100, 300)


def test_a_worker_that_was_killed_from_outside_held_until_its_death_was_heard_of() -> None:
    """Without an end its hold would be missing from the proof that nothing was over-granted."""
    outcome = of_failure({}, _tail("START", json.dumps(HELD)), started_ms=1, ended_ms=400)
    assert (outcome.crashed, outcome.held_to_ms) == (True, 400)


@pytest.mark.parametrize(
    "tail", ["", _tail("Traceback", '{"worker": "holding", '), _tail('{"level": "ERROR"}'), _tail('"worker":')]
)
def test_a_worker_that_failed_before_it_held_is_an_error(tail: str) -> None:
    """An import error must not be counted as a drill's victim."""
    outcome = of_failure({"errorMessage": "No module named x"}, tail, started_ms=1, ended_ms=2)
    assert (outcome.kind, outcome.crashed, outcome.reason) == ("error", False, "No module named x")
