"""Hypothesis drives the real engine on DynamoDB Local against a reference that is a dictionary and a subtraction.

MODEL_EXAMPLES sets how many histories are tried (default 25 for each machine; four times as many in memory).
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Refusal, Renewal, ShardKey, Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.errors import GovernorUnavailable
from tests.support.faulty_store import LOST_ANSWER, SENT_AGAIN, TWICE, Fault
from tests.support.worlds import SKEW_MS, World, is_whole

if TYPE_CHECKING:
    from connection_governor.core.store import LeaseStore

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "25"))
LENGTHS = st.sampled_from([1_000, 2_000, 30_000])
PAUSES = st.sampled_from([0, 999, 1_000, 1_001, 1_500, 2_000, 2_001, 31_001])
CRASHES = st.none() | st.tuples(st.integers(0, 8), st.booleans())
ANSWERS = st.sampled_from([None, None, None, LOST_ANSWER, TWICE, SENT_AGAIN])

names = itertools.count()


@dataclass
class Entry:
    """What the reference knows of a stored lease."""

    connections: int
    expires_at_ms: int


class OneShard(RuleBasedStateMachine):
    """Every answer and every stored lease is foretold exactly."""

    store: ClassVar[LeaseStore]
    asked = Bundle("asked")
    held = Bundle("held")

    @initialize(budget=st.integers(0, 3))
    def begin(self, budget: int) -> None:
        """Create a database for each history."""
        self.world = World(self.store, database=f"model-{next(names)}")
        self.world.entropy.share = 0.0  # no pause between retries: time is what the rules let pass
        self.world.operations.set_budget(self.world.database, budget)
        self.allowed = budget
        self.stored: dict[str, Entry] = {}
        self.grants = 0

    # The reference

    def in_use(self) -> int:
        return sum(entry.connections for entry in self.stored.values())

    def is_reclaimable(self, lease_id: str) -> bool:
        return self.stored[lease_id].expires_at_ms + SKEW_MS < self.world.clock.now

    def over(self) -> list[str]:
        return [lease_id for lease_id in self.stored if self.is_reclaimable(lease_id)]

    def foretell_grant(self, wanted: Wanted) -> bool:
        """Return whether the acquire must be granted; remove the leases that it must take over."""
        if wanted.lease_id in self.stored:
            return True
        room = self.allowed - self.in_use()
        if room < wanted.connections:
            freed = sum(self.stored[lease_id].connections for lease_id in self.over())
            if room + freed < wanted.connections:
                return False
            for lease_id in self.over():
                del self.stored[lease_id]
        self.stored[wanted.lease_id] = Entry(wanted.connections, wanted.expires_at_ms)
        self.grants += 1
        return True

    # The rules

    @rule(targets=(asked, held), connections=st.sampled_from([1, 1, 2]), length=LENGTHS, fault=ANSWERS)
    def acquire(self, connections: int, length: int, fault: Fault | None) -> Lease:
        if connections > max(1, self.allowed):
            connections = 1
        wanted = self.world.wanted(connections=connections, ends_in_ms=length)
        return self.ask(wanted, look_first=False, fault=fault)

    @rule(target=held, asked=asked, look_first=st.booleans(), fault=ANSWERS)
    def acquire_again(self, asked: Lease, look_first: bool, fault: Fault | None) -> Lease:
        """Return a retry, or a late duplicate after its release."""
        wanted = Wanted(asked.database, asked.lease_id, asked.holder, asked.connections, asked.expires_at_ms)
        return self.ask(wanted, look_first=look_first, fault=fault)

    def ask(self, wanted: Wanted, *, look_first: bool, fault: Fault | None) -> Lease:
        world = self.world
        stored = self.stored.get(wanted.lease_id)
        if stored and stored.expires_at_ms != wanted.expires_at_ms:
            return wanted.granted_by(world.shards()[0].key, None)  # renewed meanwhile: the id is in use
        if wanted.connections > max(1, self.allowed):
            return wanted.granted_by(world.shards()[0].key, None)
        foretold = self.foretell_grant(wanted)
        world.store.plan("grant", fault)
        outcome = world.engine.acquire(wanted, look_first=look_first)
        world.store.faults.clear()
        assert isinstance(outcome, Grant if foretold else Refusal)
        assert outcome.allowed == self.allowed
        if isinstance(outcome, Grant):
            assert outcome.in_use == self.in_use()
        return wanted.granted_by(world.shards()[0].key, None)

    @rule(lease=held, fault=ANSWERS)
    def release(self, lease: Lease, fault: Fault | None) -> None:
        stored = self.stored.get(lease.lease_id)
        foretold = stored is not None and stored.expires_at_ms >= lease.expires_at_ms
        self.world.store.plan("remove", fault)
        released = self.world.engine.release(lease)
        self.world.store.faults.clear()
        if foretold:
            del self.stored[lease.lease_id]
        if fault not in (LOST_ANSWER, SENT_AGAIN):
            assert (released is not None) == foretold

    @rule(target=held, lease=held, length=LENGTHS, fault=ANSWERS)
    def renew(self, lease: Lease, length: int, fault: Fault | None) -> Lease:
        world = self.world
        end_ms = max(world.clock.now + length, lease.expires_at_ms)
        stored = self.stored.get(lease.lease_id)
        world.store.plan("renew", fault)
        outcome = world.engine.renew(lease, expires_at_ms=world.clock.now + length)
        world.store.faults.clear()
        if stored is None or stored.expires_at_ms < max(world.clock.now, lease.expires_at_ms):
            assert outcome is None
        elif stored.expires_at_ms >= end_ms:
            assert isinstance(outcome, Renewal)
            assert outcome.lease.expires_at_ms == stored.expires_at_ms
            return outcome.lease
        elif self.in_use() > self.allowed:  # else it continues from the stored record, which is its holder's
            assert isinstance(outcome, Refusal)
        else:
            assert isinstance(outcome, Renewal)
            stored.expires_at_ms = end_ms
            return outcome.lease
        return lease

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        self.world.clock.advance(pause)

    @rule()
    def reclaim(self) -> None:
        over = set(self.over())
        assert {lease.lease_id for lease in self.world.operations.reclaim(self.world.database)} == over
        for lease_id in over:
            del self.stored[lease_id]

    @rule(budget=st.integers(0, 3))
    def set_budget(self, budget: int) -> None:
        """Carry a plan out on the live leases: expired ones are reclaimed first."""
        self.world.operations.set_budget(self.world.database, budget)
        for lease_id in self.over():
            del self.stored[lease_id]
        self.allowed = budget
        self.world.engine = Engine(self.world.store, self.world.clock, self.world.entropy)  # others know at once

    @invariant()
    def what_is_stored_is_what_was_foretold(self) -> None:
        """Compare the store with the prediction: counters, leases, and fences that count the grants."""
        shard = self.world.shard()
        found = {each.lease_id: Entry(each.connections, each.expires_at_ms) for each in self.world.status().leases()}
        assert found == self.stored
        assert shard.allowed == self.allowed
        assert shard.remaining == self.allowed - self.in_use()
        assert shard.fence == self.grants


class SeveralShards(RuleBasedStateMachine):
    """Where leases land is not foretold: what can never happen is checked, and that all of it comes back."""

    store: ClassVar[LeaseStore]
    held = Bundle("held")

    @initialize(budget=st.integers(1, 5), shards=st.integers(1, 3))
    def begin(self, budget: int, shards: int) -> None:
        self.world = World(self.store, database=f"model-{next(names)}")
        self.world.entropy.share = 0.0  # no pause between retries: time is what the rules let pass
        self.world.operations.set_budget(self.world.database, budget, shards=min(shards, budget))
        self.budgets: dict[int, int] = {}  # plan -> what it allows
        self.stamped: dict[int, set[ShardKey]] = defaultdict(set)  # plan -> shards that have carried it
        self.in_force_at_ms: dict[int, int] = {}  # plan -> when it was last in force
        self.note_what_is_in_force()
        self.alive: dict[str, Lease] = {}
        self.fences: dict[int, int] = {}

    def note_what_is_in_force(self) -> None:
        """Note the budgets in force: each from its settings' write until one later plan has stamped every shard."""
        status = self.world.status()
        self.budgets[status.settings.plan] = status.settings.allowed
        for shard in status.shards:
            self.stamped[shard.plan].add(shard.key)
        complete = max((plan for plan, keys in self.stamped.items() if keys >= set(status.settings.keys)), default=0)
        for plan in self.budgets:
            if plan >= complete:
                self.in_force_at_ms[plan] = self.world.clock.now

    def in_force(self) -> int:
        """Return the highest budget in force within the last lease length and the allowance."""
        since = self.world.clock.now - 30_000 - SKEW_MS
        return max(self.budgets[plan] for plan, at_ms in self.in_force_at_ms.items() if at_ms >= since)

    @rule(target=held, length=LENGTHS, fault=ANSWERS)
    def acquire(self, length: int, fault: Fault | None) -> Lease | None:
        free = [shard for shard in self.world.shards() if shard.remaining > 0]
        knows = self.world.engine.known_settings(self.world.database) == self.world.settings()
        self.world.store.plan("grant", fault)
        outcome = self.world.acquire(ends_in_ms=length)
        self.world.store.faults.clear()
        if isinstance(outcome, Grant):
            self.alive[outcome.lease.lease_id] = outcome.lease
            return outcome.lease
        assert not (knows and free), "refused with room in a shard"
        return None

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), fault=ANSWERS)
    def release(self, data: st.DataObject, fault: Fault | None) -> None:
        lease = self.alive.pop(data.draw(st.sampled_from(sorted(self.alive))))
        self.world.store.plan("remove", fault)
        self.world.release(lease)
        self.world.store.faults.clear()

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        self.world.clock.advance(pause)
        now = self.world.clock.now
        self.alive = {name: lease for name, lease in self.alive.items() if lease.expires_at_ms >= now}

    @rule()
    def janitor(self) -> None:
        world = self.world
        world.operations.settle(world.operations.status(world.database).settings)

    @rule(
        budget=st.integers(1, 8),
        shards=st.integers(1, 3),
        crash=st.none() | st.tuples(st.integers(0, 8), st.booleans()),
    )
    def set_budget(self, budget: int, shards: int, crash: tuple[int, bool] | None) -> None:
        """Change the budget, perhaps cut off in the middle: the next operator continues from there."""
        self.world.store.crash = crash
        with suppress(GovernorUnavailable):
            self.world.operations.set_budget(self.world.database, budget, shards=min(shards, budget))
        self.world.store.crash = None
        self.note_what_is_in_force()

    @invariant()
    def never_more_is_lent_than_was_in_force(self) -> None:
        self.note_what_is_in_force()
        assert sum(lease.connections for lease in self.alive.values()) <= self.in_force()

    @invariant()
    def what_is_alive_is_stored_and_every_shard_is_whole(self) -> None:
        shards = self.world.shards()
        assert all(is_whole(shard) for shard in shards)
        stored = {name: record for shard in shards for name, record in shard.leases.items()}
        assert all(stored.get(name) == lease.record for name, lease in self.alive.items())
        for shard in shards:
            assert shard.fence >= self.fences.get(shard.key.index, 0)
            self.fences[shard.key.index] = shard.fence

    def teardown(self) -> None:
        """Check that exactly the budget can be granted again when all holders are gone and no plan is half done."""
        if not hasattr(self, "world"):
            return
        self.janitor()
        self.world.clock.advance(30_000 + SKEW_MS + 1 + 60_000)
        found = self.world.settings()
        assert found is not None
        granted = 0
        for _ in range(found.allowed + 12):
            granted += isinstance(self.world.acquire(ends_in_ms=600_000), Grant)
            self.world.clock.advance(11_000)
        assert granted == found.allowed


@pytest.mark.parametrize("machine", [OneShard, SeveralShards])
def test_the_real_engine_does_what_the_reference_foretells(
    machine: type[OneShard | SeveralShards], empty_store: LeaseStore
) -> None:
    """Any order of acquire, retry, renew, release, time, janitor and operators: no history loses or doubles a slot."""
    machine.store = empty_store
    examples = EXAMPLES * (4 if isinstance(empty_store, MemoryStore) else 1)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))
