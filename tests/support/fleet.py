"""A fleet in virtual time: any number of environments, each a greenlet with the production Governor, on one table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from connection_governor.client.governor import Governor
from connection_governor.client.ports import Dependencies
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.errors import GovernorUnavailable
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from tests.support.hub import MS, Hub, HubClock
from tests.support.versions import Versions
from tests.support.virtual import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Shard, ShardKey
    from connection_governor.core.store import LeaseStore

DATABASE = "orders"


class SilentReporter(Reporter):
    """Formats no line: logs are not simulated.

    Args:
        on_ungoverned: what to do when a worker goes on without a lease on purpose.
    """

    def __init__(self, on_ungoverned: Callable[[], None] | None = None) -> None:
        super().__init__(write=lambda _line: None)
        self._on_ungoverned = on_ungoverned

    def ungoverned(self, *_database: object, **_properties: object) -> None:
        """See `Reporter.ungoverned`."""
        if self._on_ungoverned is not None:
            self._on_ungoverned()

    def emit(self, *_database: object, **_properties: object) -> None:
        """Write nothing."""

    def note(self, *_message: object, **_properties: object) -> None:
        """Write nothing."""


class DistantStore:
    """`MemoryStore` behind a network: every call takes time, costs units, and may be throttled.

    A request takes effect in the middle of its time. An eventually consistent read shows the shard as it was up to
    `lag_us` ago.

    Args:
        hub: the virtual time.
        random: latencies and lags.
        latency_us: the median of a request's time; half of them take up to half as long again, few take thrice.
        lag_us: how far an eventually consistent read may lag.
        admit: says whether the table takes one write unit of a shard now; None: always.
    """

    def __init__(
        self,
        hub: Hub,
        random: Random,
        *,
        latency_us: int = 4 * MS,
        lag_us: int = 20 * MS,
        admit: Callable[[ShardKey], bool] | None = None,
    ) -> None:
        self.truth = MemoryStore()
        self.spent: Counter[str] = Counter()
        self.lent_us = 0  # connection-microseconds that the table has had on loan
        self._lent = 0
        self._since_us = 0
        self._hub = hub
        self._random = random
        self._latency_us = latency_us
        self.admit = admit
        self._versions = Versions(hub, random, lag_us, power=3, most=64)
        self._noted: set[ShardKey] = set()

    def within(self, _deadline: Deadline | None) -> LeaseStore:
        """See `LeaseStore.within`: this one always answers."""
        return cast("LeaseStore", self)  # its methods but one take any arguments

    def grant(self, key: ShardKey, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  # as `LeaseStore.grant`
        """See `LeaseStore.grant`."""
        return self._write("grant", key, lambda: self.truth.grant(key, *arguments, **options))

    def remove(self, key: ShardKey, *arguments: Any) -> Any:  # noqa: ANN401  # as `LeaseStore.remove`
        """See `LeaseStore.remove`."""
        return self._write("remove", key, lambda: self.truth.remove(key, *arguments))

    def renew(self, key: ShardKey, *arguments: Any) -> Any:  # noqa: ANN401  # as `LeaseStore.renew`
        """See `LeaseStore.renew`."""
        return self._write("renew", key, lambda: self.truth.renew(key, *arguments))

    def read(self, keys: Sequence[ShardKey], *, consistent: bool) -> list[Shard | None]:
        """See `LeaseStore.read`."""
        self._travel()
        self.spent["consistent reads" if consistent else "reads"] += len(keys)
        shards = self.truth.read(keys, consistent=True) if consistent else [self._as_it_was(key) for key in keys]
        self._travel()
        return shards

    def settings(self, database: str, *, consistent: bool) -> Any:  # noqa: ANN401  # as `LeaseStore.settings`
        """See `LeaseStore.settings`."""
        self._travel()
        self.spent["consistent reads" if consistent else "reads"] += 1
        return self.truth.settings(database, consistent=consistent)

    def units(self) -> float:
        """Return the write units spent: an eventually consistent read is a tenth of one, a consistent one a fifth."""
        writes = sum(count for what, count in self.spent.items() if "read" not in what)  # nor those "unread"
        return writes + 0.1 * self.spent["reads"] + 0.2 * self.spent["consistent reads"]

    def _write(self, verb: str, key: ShardKey, apply: Callable[[], Any]) -> Any:  # noqa: ANN401  # as `apply` returns
        self._travel()
        if self.admit is not None and not self.admit(key):
            self.spent["throttled, unread"] += 1  # costs nothing
            self._travel()
            raise GovernorUnavailable("throttled", throttled=True)
        outcome = self._counting(key, apply)
        self.spent[verb if hasattr(outcome, "remaining") else f"{verb} refused"] += 1
        self._travel()
        return outcome

    def _counting(self, key: ShardKey, apply: Callable[[], Any]) -> Any:  # noqa: ANN401  # see above
        before = self._now(key)
        self.settle_up()
        outcome = apply()
        after = self._now(key)
        self._lent += (after.in_use if after else 0) - (before.in_use if before else 0)
        self._versions.note(key, after, first=before)
        self._noted.add(key)
        return outcome

    def settle_up(self) -> None:
        """Bring `lent_us` up to now."""
        self.lent_us += self._lent * (self._hub.now_us - self._since_us)
        self._since_us = self._hub.now_us

    def _as_it_was(self, key: ShardKey) -> Shard | None:
        if key not in self._noted:
            return self._now(key)
        seen: Shard | None = self._versions.lagging(key)
        return seen

    def _now(self, key: ShardKey) -> Shard | None:
        return self.truth.read([key], consistent=True)[0]

    def _travel(self) -> None:
        self._hub.sleep(int(self._latency_us / 2 * (0.5 + self._random.random() + self._random.random() ** 8 * 2)))


class Fleet:
    """A table with a budget, and the makings of environments that share it.

    Args:
        random: makes every random choice.
        budget: of the database.
        shards: among how many it is split; None: as the rules have it.
        network: more of `DistantStore`'s arguments.
    """

    def __init__(self, random: Random, *, budget: int, shards: int | None = None, **network: Any) -> None:  # noqa: ANN401  # see above
        self.hub = Hub()
        self.clock = HubClock(self.hub)
        self.entropy = SeededEntropy(random, 0)
        self.store = DistantStore(self.hub, random, **network)
        truth = self.store.truth
        Operations(truth, self.clock, self.entropy).set_budget(DATABASE, budget, shards=shards)

    def governor(self, holder: str, *, opener: Any = None, keep_seconds: int = 0) -> Governor:  # noqa: ANN401  # makes an `Opener`
        """Return one more environment's governor, with nothing remembered."""
        store = cast("LeaseStore", self.store)
        engine = Engine(store, self.clock, self.entropy)
        reporter = SilentReporter()
        service = Service(engine, lambda: Operations(store, self.clock, self.entropy), reporter, self.clock)
        dependencies = Dependencies(
            self.clock, self.entropy, reporter, make_opener=(lambda: opener) if opener else None
        )
        return Governor(service, dependencies, holder=holder, database=DATABASE, keep_seconds=keep_seconds)
