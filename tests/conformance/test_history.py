"""Concurrent histories from several processes over a bad network are linearizable; and the checker can say no.

HISTORY_SECONDS sets how long is recorded (default 3).
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.conformance.crowd import DATABASE, crowd
from tests.conformance.linearizability import ACQUIRE, NO, RELEASE, UNKNOWN, YES, Operation, linearization
from tests.support.worlds import is_whole, new_table

if TYPE_CHECKING:
    from pathlib import Path

    from connection_governor.aws.client import Endpoint

SECONDS = float(os.environ.get("HISTORY_SECONDS", "3"))
BUDGET = 6


def acquire(name: str, outcome: str, called: int, returned: int, connections: int = 1) -> Operation:
    return Operation(ACQUIRE, name, outcome, called, returned, connections)


def release(name: str, outcome: str, called: int, returned: int, connections: int = 1) -> Operation:
    return Operation(RELEASE, name, outcome, called, returned, connections)


# The checker itself

POSSIBLE = {
    "one after the other": [acquire("a", YES, 0, 1), release("a", YES, 2, 3), acquire("b", YES, 4, 5)],
    "a release that overlaps the next grant": [
        acquire("a", YES, 0, 1),
        acquire("b", YES, 2, 9),
        release("a", YES, 3, 4),
    ],
    "a refusal while full": [acquire("a", YES, 0, 1), acquire("b", NO, 2, 3)],
    "a refusal that overlaps the grant it lost to": [acquire("a", YES, 0, 9), acquire("b", NO, 1, 2)],
    "an outage that was applied": [acquire("a", UNKNOWN, 0, 1), acquire("b", NO, 2, 3)],
    "an outage that was not": [acquire("a", UNKNOWN, 0, 1), acquire("b", YES, 2, 3)],
    "an outage that was applied late": [
        acquire("a", UNKNOWN, 0, 1),
        acquire("b", YES, 2, 3),
        release("b", YES, 4, 5),
        acquire("c", NO, 6, 7),
    ],
    "a release whose answer was lost": [acquire("a", YES, 0, 1), release("a", NO, 2, 3), acquire("b", YES, 4, 5)],
    "an outage that was applied after its release had found nothing": [
        acquire("a", UNKNOWN, 0, 1),
        release("a", NO, 2, 3),
        acquire("b", NO, 4, 5),
    ],
    "nothing to release": [release("a", NO, 0, 1), acquire("b", YES, 2, 3)],
}
IMPOSSIBLE = {
    "one too many": [acquire("a", YES, 0, 1), acquire("b", YES, 2, 3)],
    "two at the same time": [acquire("a", YES, 0, 9), acquire("b", YES, 0, 9)],
    "given before it came back": [acquire("a", YES, 0, 1), acquire("b", YES, 2, 3), release("a", YES, 4, 5)],
    "more than there are": [acquire("a", YES, 0, 1, 2)],
    "refused with room": [acquire("a", NO, 0, 1)],
    "refused after it came back": [
        acquire("a", YES, 0, 1),
        release("a", YES, 2, 3),
        acquire("b", NO, 4, 5),
    ],
    "released what was never held": [release("a", YES, 0, 1)],
    "released twice": [acquire("a", YES, 0, 1), release("a", YES, 2, 3), release("a", YES, 4, 5)],
    "released before it was held": [release("a", YES, 0, 1), acquire("a", YES, 2, 3)],
    "released one of two": [acquire("a", YES, 0, 1), release("a", YES, 2, 3, 2)],
    "lost for good": [
        acquire("a", YES, 0, 1),
        release("a", YES, 2, 3),
        acquire("b", NO, 4, 5),
        acquire("c", NO, 6, 7),
    ],
}


@pytest.mark.parametrize("name", POSSIBLE)
def test_a_history_that_a_budget_of_one_explains_is_accepted(name: str) -> None:
    """A checker that cries wolf is switched off."""
    found = linearization(POSSIBLE[name], 1)
    assert found is not None
    known = [operation for operation in POSSIBLE[name] if operation.outcome != UNKNOWN]
    assert set(known) <= set(found)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_history_that_no_budget_of_one_explains_is_rejected(name: str) -> None:
    """A checker that accepts everything proves nothing about the engine."""
    assert linearization(IMPOSSIBLE[name], 1) is None


def test_refusals_may_be_let_off_where_shards_are_asked_one_after_the_other() -> None:
    """With several shards a refusal is not one moment, and only grants are held to the budget."""
    assert linearization(IMPOSSIBLE["refused with room"], 1, exact_refusals=False) is not None
    assert linearization(IMPOSSIBLE["one too many"], 1, exact_refusals=False) is None


def made_up(seed: int, length: int, budget: int) -> list[Operation]:
    """Return a correct history: each operation takes effect at one moment, between its call and its return."""
    dice, held, history = random.Random(seed), dict[str, int](), list[Operation]()
    for number in range(length):
        moment = number * 10
        called, returned = moment - dice.randrange(40), moment + 1 + dice.randrange(40)
        if held and dice.random() < 0.4:
            name = dice.choice(sorted(held))
            history.append(release(name, YES, called, returned, held.pop(name)))
            continue
        count = dice.choice([1, 1, 2])
        outcome = YES if sum(held.values()) + count <= budget else NO
        if outcome == YES:
            held[f"n{number}"] = count
        history.append(acquire(f"n{number}", outcome, called, returned, count))
    dice.shuffle(history)
    return history


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_any_history_with_its_moments_inside_is_accepted(seed: int) -> None:
    """Whatever overlaps, in whatever order it was written down."""
    assert linearization(made_up(seed, 80, 4), 4) is not None


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9))
def test_any_history_with_one_grant_too_many_is_rejected(seed: int) -> None:
    """The one bug that matters, hidden anywhere among eighty operations."""
    history = made_up(seed, 80, 4)
    start = max(operation.returned_ns for operation in history) + 1
    extra = [acquire(f"x{number}", YES, start + 10 * number, start + 10 * number + 5) for number in range(5)]
    assert linearization([*history, *extra], 4) is None


@settings(max_examples=60)
@given(seed=st.integers(0, 10**9), data=st.data())
def test_any_history_with_a_release_answered_twice_is_rejected(seed: int, data: st.DataObject) -> None:
    """A release that took effect twice would grant the slot twice."""
    history = made_up(seed, 80, 4)
    releases = [operation for operation in history if operation.kind == RELEASE]
    again = data.draw(st.sampled_from(releases))
    late = replace(again, called_ns=again.returned_ns + 1, returned_ns=again.returned_ns + 2)
    assert linearization([*history, late], 4) is None


# The engine


@pytest.mark.parametrize("shards", [1, 2], ids=["one-shard", "two-shards"])
def test_each_grant_and_each_release_takes_effect_once_between_its_call_and_its_return(
    shards: int, endpoint: Endpoint, dynamodb_local: str, tmp_path: Path
) -> None:
    """Through lost requests, lost answers and repeated writes, from four processes: the budget is one counter."""
    table = new_table(endpoint)
    store = DynamoDBStore(DynamoDBCaller(endpoint), table)
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget(DATABASE, BUDGET, shards=shards)
    sizes = {"processes": 4, "threads": 4, "seconds": SECONDS, "lease_ms": 600_000}
    with crowd(tmp_path / "journals", dynamodb_local, table, program="recorder", mode="record", **sizes) as people:  # type: ignore[arg-type]
        people.go()
        people.finish()
        history = [Operation(**json.loads(line)) for line in people.journal()]
    outcomes = Counter((operation.kind, operation.outcome) for operation in history)
    assert min(outcomes[ACQUIRE, YES], outcomes[ACQUIRE, NO], outcomes[RELEASE, YES]) > 10, outcomes
    assert outcomes[RELEASE, NO] > 0, "answers were lost"
    order = linearization(history, BUDGET, exact_refusals=shards == 1)
    assert order is not None, _to_read(history)
    status = operations.status(DATABASE)
    assert all(is_whole(shard) for shard in status.shards)
    explained = _held_after(order)
    assert {lease.lease_id for lease in status.leases()} >= explained


def _held_after(order: list[Operation]) -> set[str]:
    held: set[str] = set()
    for operation in order:
        if operation.kind == RELEASE:
            held.discard(operation.lease_id)
        elif operation.outcome == YES:
            held.add(operation.lease_id)
    return held


def _to_read(history: list[Operation]) -> str:
    lines = sorted(history, key=lambda operation: operation.called_ns)
    return "no order of these explains them:\n" + "\n".join(map(str, lines))
