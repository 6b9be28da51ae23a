"""Many processes of many threads on DynamoDB Local, with the production client: never one connection too many.

CONCURRENCY_SECONDS sets how long each crowd works (default 5), KILL_ROUNDS how often all are killed (default 2).
"""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.conformance.crowd import DATABASE, Held, crowd, peak_held
from tests.support.worlds import is_whole, new_table

if TYPE_CHECKING:
    from pathlib import Path

    from connection_governor.aws.client import Endpoint

SECONDS = float(os.environ.get("CONCURRENCY_SECONDS", "5"))
KILL_ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
BUDGET = 20
LEASE_MS = 1_000
SKEW_MS = 200


class Table:
    """A table with a budget of twenty for `orders`."""

    def __init__(self, endpoint: Endpoint, shards: int) -> None:
        self.name = new_table(endpoint)
        self.operations = Operations(DynamoDBStore(DynamoDBCaller(endpoint), self.name), SYSTEM_CLOCK, SYSTEM_ENTROPY)
        self.operations.set_budget(DATABASE, BUDGET, shards=shards, skew_ms=SKEW_MS)

    def in_use(self) -> int:
        """Return the connections in use; every shard must be whole."""
        status = self.operations.status(DATABASE)
        assert all(is_whole(shard) for shard in status.shards)
        return status.in_use

    def is_untouched(self) -> bool:
        """Return whether remaining is allowed again, in every shard, with no lease left."""
        shards = self.operations.status(DATABASE).shards
        return all(shard.remaining == shard.allowed and not shard.leases for shard in shards)


@pytest.fixture(params=[1, 4], ids=["one-shard", "four-shards"])
def table(request: pytest.FixtureRequest, endpoint: Endpoint) -> Table:
    return Table(endpoint, request.param)


def test_of_64_acquires_at_once_exactly_20_are_granted(table: Table, dynamodb_local: str, tmp_path: Path) -> None:
    """Promise 1: the twenty-first would be MySQL's error 1040; an unused twentieth is lost capacity."""
    granted = _once(table, dynamodb_local, tmp_path / "journals", processes=8, threads=8)
    assert sum(lease.connections for lease in granted) == BUDGET
    assert table.in_use() == BUDGET
    stored = {lease.lease_id for lease in table.operations.status(DATABASE).leases()}
    assert stored == {lease.lease_id for lease in granted}


def test_64_that_take_turns_never_hold_more_than_20_and_leave_nothing(
    table: Table, dynamodb_local: str, tmp_path: Path
) -> None:
    """Promises 1 and 4: what the holders themselves saw, by one clock, and not what the counter says."""
    with crowd(tmp_path / "journals", dynamodb_local, table.name, seconds=SECONDS) as people:
        people.go()
        people.finish()
        held = people.held()
    assert peak_held(held) == BUDGET, "with 64 pressing, all twenty must be in use at some moment, and never more"
    assert len(held) > 2 * BUDGET, "they did take turns"
    assert table.is_untouched()


def test_processes_killed_at_random_points_cost_nothing_but_time(
    table: Table, dynamodb_local: str, tmp_path: Path
) -> None:
    """Promise 2: a crashed environment must not take its connection with it; nothing here but acquire looks for it."""
    dice = random.Random(4711)
    for number in range(KILL_ROUNDS):
        held, killed_ns = _killed_in_the_middle(
            table, dynamodb_local, tmp_path / f"round-{number}", dice.random() * 0.8
        )
        assert peak_held(held, killed_ns) <= BUDGET
        assert table.in_use() >= 1, "a process was killed while holding"
        time.sleep(max(0.0, killed_ns / 1e9 + (LEASE_MS + SKEW_MS) / 1_000 + 0.01 - time.monotonic()))
        after = _once(table, dynamodb_local, tmp_path / f"after-{number}", processes=2, threads=20)
        assert len(after) == BUDGET, "the full budget can be lent again"
        for lease in table.operations.status(DATABASE).leases():
            table.operations._store.remove(lease.key, ((lease.lease_id, lease.record),))
        assert table.is_untouched()


def _killed_in_the_middle(table: Table, endpoint_url: str, folder: Path, after_s: float) -> tuple[list[Held], int]:
    with crowd(folder, endpoint_url, table.name, processes=6, threads=6, seconds=60, lease_ms=LEASE_MS) as people:
        people.go()
        time.sleep(after_s)
        for process in people.processes:
            process.kill()
        for process in people.processes:
            process.wait()
        killed_ns = time.monotonic_ns()
        return people.held(), killed_ns


def _once(table: Table, endpoint_url: str, folder: Path, *, processes: int, threads: int) -> list[Held]:
    with crowd(folder, endpoint_url, table.name, processes=processes, threads=threads, mode="once") as people:
        people.go()
        people.finish()
        return people.held()
