"""Which sessions a grant lets its holder end: those of leases that are gone, however requests interleave."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Shard, ShardKey, Wanted, record_expiry_ms, session_name
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.errors import GovernorUnavailable
from tests.support.virtual import SeededEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable

ACQUIRES = 10_000
ACQUIRES_A_WORLD = 100
SKEW_MS = 5
LOST_ANSWERS = 0.05
DEEPEST = 2


class InterleavedStore:
    """A store between whose requests others act; reads may lag, and answers may be lost."""

    def __init__(self, inner: MemoryStore, draw: random.Random) -> None:
        self.inner = inner
        self.meanwhile: Callable[[], object] = lambda: None
        self._draw = draw
        self._versions: dict[ShardKey, list[Shard | None]] = {}

    def within(self, _deadline: object) -> InterleavedStore:
        """See `LeaseStore.within`."""
        return self

    def read(self, keys: list[ShardKey], *, consistent: bool) -> list[Shard | None]:
        """Read as `LeaseStore.read`; what is not consistent may be any earlier version."""
        self.meanwhile()
        shards = self.inner.read(keys, consistent=True)
        for key, shard in zip(keys, shards, strict=True):
            self._versions.setdefault(key, []).append(shard)
        seen = shards if consistent else [self._draw.choice(self._versions[key][-5:]) for key in keys]
        self.meanwhile()
        return seen

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self.inner, method)

        def interleaved(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - of any request
            self.meanwhile()
            answer = call(*arguments, **options)
            self.meanwhile()
            if method == "grant" and self._draw.random() < LOST_ANSWERS:
                raise GovernorUnavailable("the answer was lost")
            return answer

        return interleaved


class World:
    """A few holders and takers of one small budget; every grant is checked, and all that is stored after each step."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.clock = VirtualClock()
        self.memory = MemoryStore()
        entropy = SeededEntropy(self.draw, seed)
        Operations(self.memory, self.clock, entropy).set_budget(
            "orders", self.draw.randint(1, 3), skew_ms=SKEW_MS, shards=1
        )
        self.store = InterleavedStore(self.memory, self.draw)
        self.store.meanwhile = self.act
        self.engine = Engine(self.store, self.clock, entropy)  # type: ignore[arg-type] # a store by __getattr__
        self.holders = Engine(self.memory, self.clock, entropy)
        self.entropy = entropy
        self.held: list[Lease] = []
        self.ended: set[str] = set()
        self.depth = self.acquires = 0

    def act(self) -> None:
        """Let one of the others do something, at this very moment."""
        if self.depth < DEEPEST:
            self.draw.choice((self.acquire, self.renew, self.renew, self.release, self.rest, self.rest))()
            self.check()

    def acquire(self) -> None:
        """Acquire a short lease; its holder may end the sessions that the grant names."""
        self.depth += 1
        self.acquires += 1
        wanted = Wanted("orders", self.entropy.lease_id(), "shop", 1, self.clock.now_ms() + self.draw.randint(5, 40))
        try:
            grant = self.engine.acquire(wanted, look_first=self.draw.random() < 0.7, last=self.draw.random() < 0.5)
        except GovernorUnavailable:
            return
        finally:
            self.depth -= 1
        if isinstance(grant, Grant):
            self.held.append(grant.lease)
            self.ended.update(grant.lease.taken_over)

    def renew(self) -> None:
        """Renew as a holder does, at any moment before or after its lease's expiry."""
        if self.held:
            lease = self.held.pop(self.draw.randrange(len(self.held)))
            renewal = self.holders.renew(lease, expires_at_ms=self.clock.now_ms() + self.draw.randint(5, 40))
            if renewal is not None and hasattr(renewal, "lease"):
                self.held.append(renewal.lease)

    def release(self) -> None:
        """Release as a holder does."""
        if self.held:
            self.holders.release(self.held.pop(self.draw.randrange(len(self.held))))

    def rest(self) -> None:
        """Let some milliseconds pass."""
        self.clock.advance(self.draw.randint(1, 15))

    def check(self) -> None:
        """Check that no session was ended whose lease is stored and in force, or counts for its holder.

        A retry may store an expired lease again, after it was taken over: its holder releases it, and opens nothing.
        """
        now_ms = self.clock.now_ms()
        (shard,) = self.memory.read([ShardKey("orders", 0)], consistent=True)
        assert shard is not None
        stored = {
            session_name(lease_id, shard.key)
            for lease_id, record in shard.leases.items()
            if record_expiry_ms(record) >= now_ms
        }
        alive = {lease.session_name for lease in self.held if lease.expires_at_ms >= now_ms}
        assert not self.ended & (stored | alive)


def test_no_session_of_a_living_lease_is_ever_named() -> None:
    """A worker kills another worker's session, in the middle of its order."""
    acquires = taken_over = seed = 0
    while acquires < ACQUIRES:
        seed += 1
        world = World(seed)
        while world.acquires < ACQUIRES_A_WORLD:
            world.acquire()
            world.check()
        acquires += world.acquires
        taken_over += len(world.ended)
    assert taken_over > ACQUIRES / 10
