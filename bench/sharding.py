"""Cycles a second at 1 to 64 shards, under DynamoDB's limits for one item and one partition; production code.

The model: a token bucket of 1,000 write units a second for each item, and one for each partition; items are placed on
partitions by a hash of their key. A new on-demand table has about four partitions; a warmed one has as many as its
warm throughput needs. What the model leaves out: adaptive capacity, which moves a hot item to a partition of its own
after minutes, and burst capacity, five minutes of unused throughput that DynamoDB may lend and does not promise.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import TYPE_CHECKING

from bench.measure import FULL, Effort
from bench.results import Row
from connection_governor.errors import GovernorError
from tests.support.fleet import Fleet
from tests.support.hub import MS, SECOND, Hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.core.lease import ShardKey

NAME = "sharding"
UNITS_A_SECOND = 1_000  # of one item, and of one partition
NEW_TABLE = 4
WARM_ROOM = 8  # partitions a shard: two shards on one partition halve each other, and with fewer they often meet
LEAST_LINEAR = 0.8
HOLD_US = 10 * MS
EACH = 36  # connections a shard; at 10 ms a hold they could do 1,800 cycles a second, so writes are what is short
ENVIRONMENTS_EACH = 24  # a shard: they ask for more than twice what its writes allow


class Bucket:
    """Takes one unit at a time, a thousand a second; holds a tenth of a second's."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._units, self._at_us = UNITS_A_SECOND / 10, 0

    def take(self) -> bool:
        """Return whether there was a unit left."""
        earned = (self._hub.now_us - self._at_us) * UNITS_A_SECOND / SECOND
        self._units, self._at_us = min(UNITS_A_SECOND / 10, self._units + earned), self._hub.now_us
        if self._units < 1:
            return False
        self._units -= 1
        return True


class Partitions:
    """Where items lie, and what they may still be written."""

    def __init__(self, hub: Hub, count: int) -> None:
        self._hub = hub
        self._count = count
        self._buckets: dict[object, Bucket] = {}

    def admit(self, key: ShardKey) -> bool:
        """Return whether the item and its partition have a unit left."""
        digest = hashlib.md5(f"{key.database}#{key.index}".encode(), usedforsecurity=False).digest()
        place = int.from_bytes(digest[:8], "big") % self._count
        return self._bucket(("partition", place)).take() and self._bucket(key).take()

    def _bucket(self, name: object) -> Bucket:
        return self._buckets.setdefault(name, Bucket(self._hub))


def cycles_a_second(shards: int, partitions: int, seconds: float) -> float:
    """Return the cycles of a fleet whose demand always exceeds the capacity, by a quarter at least."""
    random = Random(1)  # noqa: S311  # a simulation
    fleet = Fleet(random, budget=shards * EACH, shards=shards)
    limits = Partitions(fleet.hub, partitions)
    fleet.store.admit = limits.admit
    done = [0]

    def environment(number: int) -> None:
        governor = fleet.governor(f"checkout/{number}")
        while True:
            try:
                lease = governor.acquire(timeout=5.0)
                fleet.hub.sleep(HOLD_US)
                governor.release(lease)
                done[0] += 1
            except GovernorError:
                fleet.hub.sleep(HOLD_US)

    for number in range(shards * ENVIRONMENTS_EACH):
        fleet.hub.start(lambda number=number: environment(number), random.randrange(200 * MS))  # type: ignore[misc]
    fleet.hub.run_for(SECOND)
    before = done[0]
    fleet.hub.run_for(int(seconds * SECOND))
    return (done[0] - before) / seconds


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure on a new table, and on a warmed one."""
    counts, seconds = ((1, 4, 16, 64), 4.0) if effort is FULL else ((1, 2), 0.2)
    one = cycles_a_second(1, 1, seconds)
    for shards in counts:
        new = cycles_a_second(shards, NEW_TABLE, seconds / max(1, shards // 16))
        warm = cycles_a_second(shards, max(NEW_TABLE, shards * WARM_ROOM), seconds / max(1, shards // 16))
        linear = warm / (shards * one)
        yield Row(
            NAME,
            f"cycles a second, {shards} shards: new table / warmed (share of linear)",
            f"at least {LEAST_LINEAR} of linear when warmed",
            f"{new:,.0f} / {warm:,.0f} ({linear:.2f})",
            linear >= LEAST_LINEAR or effort is not FULL,
            {"shards": shards, "new": new, "warmed": warm, "partitions_warmed": max(NEW_TABLE, shards * WARM_ROOM)},
        )
