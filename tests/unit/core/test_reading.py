"""A read of many shards that comes back in pieces: what was read is kept, and the rest is asked for after a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.core.lease import Shard, ShardKey
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.core.reading import Reading
from connection_governor.core.retry import RELEASING, Retry
from connection_governor.core.store import PartlyReadError
from connection_governor.errors import GovernorUnavailable
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARDS = 30


class ThrottledStore(MemoryStore):
    """Reads at most `at_once` shards of a batch, and notes what it was asked for."""

    def __init__(self, at_once: int) -> None:
        super().__init__()
        self.at_once = at_once
        self.asked: list[int] = []

    def read(self, keys: Sequence[ShardKey], *, consistent: bool) -> list[Shard | None]:
        """See `LeaseStore.read`."""
        self.asked.append(len(keys))
        shards = super().read(keys, consistent=consistent)
        if len(keys) <= self.at_once:
            return shards
        raise PartlyReadError("throttled", dict(list(zip(keys, shards, strict=True))[: self.at_once]))


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def test_thirty_throttled_shards_are_read_in_the_end(clock: VirtualClock) -> None:
    """Else `status`, budget changes and the janitor fail for as long as the table is busy: when needed most."""
    store = ThrottledStore(at_once=2)
    operations = Operations(store, clock, SetEntropy())
    store.at_once = SHARDS
    operations.set_budget("orders", SHARDS, shards=SHARDS)
    store.at_once = 2
    store.asked.clear()
    assert len(operations.status("orders").shards) == SHARDS
    assert store.asked == list(range(SHARDS, 0, -2))
    assert len(clock.naps) >= len(store.asked) // 2, "a throttled table is given time"


def test_a_read_that_gets_no_further_ends(clock: VirtualClock) -> None:
    """An outage must be said, after as many tries as ever and not one more."""
    store = ThrottledStore(at_once=0)
    keys = [ShardKey("orders", index) for index in range(3)]
    reading = Reading(store, keys, consistent=True)
    with pytest.raises(GovernorUnavailable):
        reading.to_the_end(Retry(clock, SetEntropy()), RELEASING)
    assert len(store.asked) == RELEASING.tries


def test_shards_come_in_the_order_asked_and_missing_ones_as_none(clock: VirtualClock) -> None:
    """A plan pairs them with their keys: in another order it would raise the wrong shard."""
    store = ThrottledStore(at_once=1)
    keys = [ShardKey("orders", index) for index in range(4)]
    for key in keys[:1] + keys[2:]:
        store.make_shard(key, 1)
    shards = Reading(store, keys, consistent=True).to_the_end(Retry(clock, SetEntropy()), RELEASING)
    assert [shard and shard.key for shard in shards] == [keys[0], None, keys[2], keys[3]]
