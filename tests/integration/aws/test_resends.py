"""The production client and engine behind a TCP proxy that drops answers, throttles and delays, on DynamoDB Local.

The simulation has no sockets: it cannot show what a request that is sent twice, and throttled the second time, does.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from connection_governor import Governor, GovernorUnavailable, NoConnectionsLeft
from connection_governor.client.lease_file import NoLeaseFile
from connection_governor.client.ports import Dependencies
from connection_governor.core.rules import connections_of
from connection_governor.metrics import Reporter
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring import Environment, governor_parts
from connection_governor.wiring.table import dynamodb_store, operations
from tests.support.fault_proxy import HEALTHY, Fault, FaultProxy
from tests.support.invocation import Invocation
from tests.support.worlds import endpoint_of, environment_of, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.core.lease import Lease, Shard, Wanted

pytestmark = pytest.mark.dynamodb_local

BUDGET, SHARDS = 6, 3
WORKERS, CYCLES = 4, 40
LEASE_MS, SKEW_MS = 2_500, 200
FAULTS = {
    "answers dropped": Fault(drop=0.3, writes_only=True),
    "throttled": Fault(throttle=0.4, writes_only=True),
    "dropped, then throttled": Fault(drop=0.3, throttle=0.4, writes_only=True),
    "everything, reads as well": Fault(drop=0.2, throttle=0.2, answer_s=(0.0, 0.02)),
}


class WantedIds(NoLeaseFile):
    """Notes the id of each acquire, and not whether it was granted."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def wanted(self, wanted: Wanted) -> None:
        """See `LeaseNotes.wanted`."""
        self.ids.append(wanted.lease_id)


@dataclass
class Ground:
    """A table behind the proxy, and the same table without it.

    Attributes:
        proxy: what the workers go through.
        behind: the variables of a worker behind it.
        direct: the variables of a direct reader.
    """

    proxy: FaultProxy
    behind: Environment
    direct: Environment
    wrong: list[str] = field(default_factory=list)

    def governor(self, notes: WantedIds) -> Governor:
        """Return a worker's governor, with an endpoint of its own."""
        parts = governor_parts(self.behind)
        dependencies = Dependencies(SYSTEM_CLOCK, SYSTEM_ENTROPY, Reporter(lambda _line: None), lease_file=notes)
        return Governor(**(parts | {"dependencies": dependencies}))

    def shards(self) -> list[Shard]:
        """Return the shards as they are now."""
        store = dynamodb_store(self.direct)
        settings = store.settings("orders", consistent=True)
        assert settings is not None
        shards = [shard for key in settings.keys if (shard := store.read([key], consistent=True)[0]) is not None]
        self.direct.close()
        return shards

    def check(self, ids: list[str]) -> None:
        """Note a second lease of one acquire, a counter that is not its leases, and a budget that is overdrawn."""
        shards = self.shards()
        for lease_id in ids:
            found = [shard.key.index for shard in shards if lease_id in shard.leases]
            if len(found) > 1:
                self.wrong.append(f"{lease_id} is in the shards {found}")
        for shard in shards:
            if shard.in_use != connections_of(tuple(shard.leases.items())) or shard.remaining < 0:
                self.wrong.append(f"the counter of {shard}")


@pytest.fixture
def ground(dynamodb_local: str) -> Iterator[Ground]:
    with closing(endpoint_of(dynamodb_local)) as endpoint:
        table = new_table(endpoint)
    direct = environment_of(dynamodb_local, table, GOVERNOR_DATABASE="orders")
    operations(direct).set_budget("orders", BUDGET, shards=SHARDS, skew_ms=SKEW_MS)
    with FaultProxy(dynamodb_local) as proxy:
        behind = environment_of(proxy.url, table, GOVERNOR_DATABASE="orders")
        yield Ground(proxy, behind, direct)
        behind.close()
    direct.close()


def worker(ground: Ground, number: int, cycles: int) -> int:
    """Acquire and release again and again; check after each acquire, however it ended. Return how many were granted."""
    notes, draw, granted = WantedIds(), random.Random(number), 0
    governor = ground.governor(notes)
    for _ in range(cycles):
        lease: Lease | None = None
        try:
            lease = governor.acquire(timeout=draw.choice((0, 0.3)), lease_ms=LEASE_MS)
            granted += 1
        except (GovernorUnavailable, NoConnectionsLeft):
            pass
        ground.check(notes.ids[-4:])
        if lease is not None:
            try:
                governor.release(lease)
            except GovernorUnavailable:
                continue
    return granted


@pytest.mark.parametrize("fault", FAULTS)
def test_an_acquire_never_has_two_leases_and_no_slot_is_lost_past_its_end(ground: Ground, fault: str) -> None:
    """A worker would hold two connections of the budget and know of one, or a slot never come back."""
    ground.proxy.inject(FAULTS[fault])
    with ThreadPoolExecutor(WORKERS) as crew:
        granted = sum(crew.map(lambda number: worker(ground, number, CYCLES), range(WORKERS)))
    ground.proxy.inject(HEALTHY)
    assert ground.wrong == []
    assert granted > WORKERS * CYCLES / 4
    assert sum(ground.proxy.injected.values()) > WORKERS * CYCLES / 4
    time.sleep((LEASE_MS + SKEW_MS + 100) / 1_000)
    whole = ground.governor(WantedIds())
    leases = [whole.acquire(timeout=1.0) for _ in range(BUDGET)]
    assert len({lease.lease_id for lease in leases}) == BUDGET


@pytest.mark.parametrize("on_unavailable", ["raise", "open"])
def test_a_wait_ends_before_the_invocation_and_is_a_refusal(ground: Ground, on_unavailable: str) -> None:
    """Lambda would stop the handler before it answers, or a worker connect without a lease for want of time."""
    notes, ends = WantedIds(), []
    worker = Environment({**ground.behind.variables, "DB_HOST": "127.0.0.1", "DB_SECRET_ARN": "arn:none"})
    held = [ground.governor(notes).acquire(lease_ms=60_000) for _ in range(BUDGET)]
    assert len(held) == BUDGET
    ground.proxy.inject(Fault(answer_s=(0.006, 0.15)))
    lock = threading.Lock()

    def refused(number: int) -> None:
        parts = governor_parts(worker) | {"on_unavailable": on_unavailable}
        governor = Governor(**parts)
        context = Invocation(1.0 + number / 100)
        with pytest.raises(NoConnectionsLeft), governor.connection(timeout=30.0, context=context):
            pytest.fail("connected without a lease")
        with lock:
            ends.append(context.get_remaining_time_in_millis())

    with closing(worker), ThreadPoolExecutor(8) as crew:
        list(crew.map(refused, range(40)))
    assert len(ends) == 40
    assert min(ends) >= 200
