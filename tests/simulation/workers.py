"""Who uses the governor: functions of every habit, each a loop of environments that come, work and go."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pymysql import err

from connection_governor.core.lease import Wanted
from connection_governor.errors import (
    GovernorUnavailable,
    InvalidRequest,
    LeaseLost,
    NoConnectionsLeft,
    UnknownDatabase,
)
from tests.simulation.environment import Witness
from tests.simulation.ledger import Violation
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from connection_governor.client.governor import Governor
    from connection_governor.core.lease import Lease
    from connection_governor.core.operations import Operations
    from connection_governor.database.fence import Fence
    from connection_governor.mysql.connect import FencedConnection
    from tests.simulation.environment import Environment
    from tests.simulation.world import World

EXPECTED = (NoConnectionsLeft, GovernorUnavailable, LeaseLost, UnknownDatabase, InvalidRequest, err.MySQLError)
WAITS_S = 75.0


class BodyFailure(Exception):  # noqa: N818 - what a worker's own code raises
    """A worker's own code failed."""


class Worker:
    """A worker in one environment.

    Args:
        world: where.
        environment: in which it runs.
        kept: whether it keeps its connection between invocations.
    """

    def __init__(self, world: World, environment: Environment, *, remote: bool = False, keep_seconds: int = 0) -> None:
        self.world = world
        self.environment = environment
        self.random: Random = environment.random
        self.fence: Fence = world.settings.fence
        options: dict[str, Any] = {}
        if self.random.random() < world.settings.opens_anyway:
            options["on_unavailable"] = "open"
        if keep_seconds:
            options["keep_seconds"] = keep_seconds
        self.governor: Governor = environment.governor(remote=remote, **options)

    def seconds(self, longest: float) -> float:
        """Return some time up to so many seconds, often short."""
        return float(longest * self.random.random() ** 2)

    def rest(self, longest: float) -> None:
        """Let some time pass."""
        self.environment.process.sleep(int(self.seconds(longest) * SECOND))

    def count(self, error: Exception) -> None:
        """Count an error that its caller must expect."""
        self.world.tally.outcomes[f"raised: {type(error).__name__}"] += 1

    def one_invocation(self) -> None:
        """Override: do one invocation's work."""
        raise NotImplementedError

    def run(self) -> None:
        """Run one invocation after the other, until the environment ends."""
        while True:
            self.rest(self.world.settings.gap_s)
            try:
                self.one_invocation()
            except (*EXPECTED, BodyFailure) as error:
                self.count(error)

    # What workers do with what they get.

    def query(self, connection: FencedConnection) -> None:
        """Send a few statements; sometimes one that is long, unread, or unlimited."""
        for _ in range(self.random.randint(1, 3)):
            verb = self.random.choice(("WORK", "WRITE"))
            seconds = self.seconds(self.fence.statement_seconds * (3 if self.random.random() < 0.1 else 0.2))
            if self.random.random() < self.world.settings.long_statements:
                seconds = self.fence.statement_seconds
                verb = "STREAM"
            if self.random.random() < self.world.settings.runaways:
                seconds, verb = self.fence.statement_bound_ms / 1_000 * (1 + 3 * self.random.random()), "RUNAWAY"
            connection.query(f"{verb} {seconds:.3f}")
            self.rest(2 * self.fence.idle_seconds if self.random.random() < 0.05 else 0.5)
        if self.random.random() < 0.05:
            raise BodyFailure

    def with_connection(self, **options: Any) -> None:  # noqa: ANN401 - of `connection`
        """Use a connection as most workers do."""
        with self.governor.connection(timeout=self.seconds(4), **options) as connection:
            self.query(connection)
            if self.random.random() < self.world.settings.overstays:
                self.overstay(connection)

    def overstay(self, connection: FencedConnection) -> None:
        """Keep at it until the lease forbids it, and begin the longest of statements at the last moment."""
        pause_s = self.fence.idle_seconds / 3
        while True:
            limit_ms = connection.usable_until_ms
            left_s = 60.0 if limit_ms is None else (limit_ms - self.environment.clock.now_ms()) / 1_000
            if left_s < pause_s:
                self.environment.process.sleep(max(0, int((left_s - 0.05) * SECOND)))
                connection.query("WORK 0.001")  # so that the session's idle time begins anew
                self._begin_at_the_limit(connection)
            connection.query("WORK 0.01")
            self.environment.process.sleep(int(pause_s * SECOND))

    def _begin_at_the_limit(self, connection: FencedConnection) -> None:
        self.environment.at_the_limit = True
        try:
            verb = self.random.choice(("WORK", "WORK", "STREAM"))
            connection.query(f"{verb} {self.fence.statement_seconds:.3f}")
        finally:
            self.environment.at_the_limit = False

    def with_lease(self, **options: Any) -> None:  # noqa: ANN401 - of `lease`
        """Use a lease as any other driver does."""
        count = 2 if self.random.random() < 0.2 else 1
        with self.governor.lease(connections=count, timeout=self.seconds(3), **options):
            self.rest(2)

    def by_hand(self, **options: Any) -> None:  # noqa: ANN401 - of `acquire`
        """Acquire, renew and release by hand, sometimes carelessly."""
        lease = self.governor.acquire(timeout=self.seconds(3), **options)
        self.rest(2)
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 4))):
            if self.random.random() < 0.3:
                self._until_the_end(lease)
            lease = self._renewed(lease, options)
            self.rest(3)
        if self.random.random() < 0.9:
            self.governor.release(lease)
        if self.random.random() < 0.2:
            self.governor.release(lease)

    def _until_the_end(self, lease: Lease) -> None:
        left_ms = lease.expires_at_ms - self.environment.clock.now_ms()
        self.environment.process.sleep(max(0, left_ms - self.random.randint(1, 60)) * MS)

    def _renewed(self, lease: Lease, options: dict[str, Any]) -> Lease:
        """Renew if possible: an outage or an overdrawn budget leaves the lease as it is."""
        try:
            renewed = self.governor.renew(lease, **(options if self.random.random() < 0.7 else {"lease_ms": 1_000}))
            return lease if self.random.random() < self.world.settings.forgets_renewals else renewed
        except (GovernorUnavailable, NoConnectionsLeft) as error:
            self.count(error)
            return lease


class LambdaWorker(Worker):
    """A Lambda function: each invocation has a deadline, at which it is killed wherever it is."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        world, environment = self.world, self.environment
        length_us = int((1 + self.seconds(world.settings.deadline_s)) * SECOND)
        environment.deadline_us = world.hub.now_us + length_us
        killing = world.hub.after(length_us, world.kill, environment, "killed at its deadline")
        try:
            habit: Callable[..., None] = self.random.choice((self.with_connection, self.with_lease, self.by_hand))
            self._do(habit)
            if self.random.random() < 0.02:
                environment.process.sleep(2 * length_us)
        finally:
            killing.cancel()

    def _do(self, habit: Callable[..., None]) -> None:
        """Check that the lease covers the whole invocation: no statement may be refused before the deadline."""
        began_us = self.world.hub.now_us
        try:
            habit(context=self.environment)
        except LeaseLost as lost:
            left_us = self.environment.deadline_us - self.world.hub.now_us
            if habit == self.with_connection and left_us > (self.world.settings.skew_ms + 50) * MS:
                self.world.breaks("cut short", f"{lost} {left_us // MS} ms before the deadline, began {began_us}")
            raise


class ConnectingWorker(LambdaWorker):
    """A Lambda function that only ever opens connections."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        self.with_lease = self.by_hand = self.with_connection  # type: ignore[method-assign]
        super().one_invocation()


class Hoarder(Worker):
    """Takes as much as it can get for a few seconds and forgets it, so that whole shards are past their end at once."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        lease_ms = 1_000 + int(self.seconds(12) * 1_000)
        for _ in range(self.random.randint(1, 60)):
            self.governor.acquire(timeout=0, lease_ms=lease_ms)
        self.rest(30)


class Rusher(Worker):
    """Acquires again and again and releases at once, so that nothing but the opening rate holds it back.

    Often at the same moment as others, and as the operators, after some quiet seconds.
    """

    def one_invocation(self) -> None:
        """See `Worker`."""
        if self.random.random() < 0.6:
            self.environment.process.sleep(-self.world.hub.now_us % (10 * SECOND))
        patience_s = self.random.choice(self.world.settings.rush_patience_s)
        for _ in range(self.random.randint(1, 30)):
            count = self.random.choice((1, 1, 2))
            lease = self.governor.acquire(connections=count, timeout=patience_s, lease_ms=20_000)
            self.governor.release(lease)


class Holder(Worker):
    """Holds a few leases, gives some of them back, and leaves the others to their end."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        hold_s = self.world.settings.hold_s
        leases: list[Lease] = []
        with suppress(NoConnectionsLeft):
            for _ in range(self.random.randint(1, 4)):
                lease_ms = 2_000 + int(self.seconds(3 * hold_s) * 1_000)
                leases.append(self.governor.acquire(timeout=self.seconds(4), lease_ms=lease_ms))
        for lease in leases:
            self.rest(hold_s)
            if self.random.random() < 0.7:
                self.governor.release(lease)


class LongRunner(Worker):
    """Code outside Lambda: no deadline, and it may be frozen for minutes in the middle of anything."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        self.environment.freezable = True
        lease_ms = self.fence.guard_ms + 1_000 + int(self.seconds(self.world.settings.spare_s) * 1_000)
        habit: Callable[..., None] = self.random.choice(
            (self.with_connection, self.with_connection, self.with_lease, self.by_hand)
        )
        habit(lease_ms=lease_ms)


class RenewingWorker(Worker):
    """Renews again and again, each time at the last moment."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        self.environment.freezable = True
        lease = self.governor.acquire(timeout=self.seconds(3), lease_ms=1_000 + int(self.seconds(3) * 1_000))
        for _ in range(self.random.randint(1, 6)):
            if self.random.random() < 0.5:
                self._until_the_end(lease)
            lease = self._renewed(lease, {"lease_ms": 1_000 + int(self.seconds(6) * 1_000)})
        self.governor.release(lease)


class PatientWorker(Worker):
    """Waits for more than a minute, and then holds for a while."""

    def one_invocation(self) -> None:
        """See `Worker`."""
        environment, patience = self.environment, self.world.patience
        environment.waiting_since_us = self.world.hub.now_us
        try:
            lease = self.governor.acquire(timeout=WAITS_S, lease_ms=1_000 + int(self.seconds(15) * 1_000))
        except NoConnectionsLeft as refusal:
            if not refusal.too_fast:  # such a refusal comes as soon as it is certain
                patience.check(environment.name, environment.waiting_since_us)
            raise
        patience.check(environment.name, environment.waiting_since_us)
        self.rest(5)
        if self.random.random() < 0.8:
            self.governor.release(lease)


class Vandal(Worker):
    """Calls the verbs wrongly in every way: nothing that it does may harm anyone."""

    def __init__(self, world: World, environment: Environment) -> None:
        super().__init__(world, environment)
        self._service = environment.service()
        self._witness = Witness(environment, self._service)
        self._kept: list[Lease] = []

    def one_invocation(self) -> None:
        """See `Worker`."""
        try:
            self.random.choice((self._forge, self._reuse_id, self._ask_too_much, self._renew_late, self._hold_on))()
        except InvalidRequest as error:
            self.count(error)

    def _lease(self) -> Lease:
        lease = self.governor.acquire(lease_ms=2_000 + int(self.seconds(8) * 1_000))
        self._kept = [*self._kept[-3:], lease]
        return lease

    def _hold_on(self) -> None:
        self._lease()
        self.rest(3)

    def _forge(self) -> None:
        """Release and renew a lease that is not stored so: other connections, expiry, shard or tag."""
        lease = self._lease()
        for change in (
            {"connections": 5},
            {"expires_at_ms": lease.expires_at_ms + 1},
            {"shard": lease.shard + 1},
            {"holder": "somebody"},
            {"holder": "somebody", "expires_at_ms": lease.expires_at_ms - 1},
        ):
            forged = _replace(lease, **change)
            self.environment.process.call += 1
            if self._service.release(forged):
                raise Violation("once", f"a release of {forged} took effect, held was {lease}")
            self.environment.process.call += 1
            if self._service.renew(forged, expires_at_ms=forged.expires_at_ms + 5_000) is None:
                self.world.tally.outcomes["forged renewal refused"] += 1
        self.governor.release(lease)

    def _reuse_id(self) -> None:
        lease = self._lease()
        self._witness.acquire(Wanted(lease.database, lease.lease_id, "thief", 1, lease.expires_at_ms + 7))

    def _ask_too_much(self) -> None:
        self.governor.acquire(connections=self.random.choice((0, -1, 5_000, 37)))

    def _renew_late(self) -> None:
        lease = self._kept[0] if self._kept else self._lease()
        self.rest(15)
        try:
            self.governor.renew(lease, lease_ms=5_000)
        finally:
            self.governor.release(lease)


def _replace(lease: Lease, **changes: Any) -> Lease:  # noqa: ANN401 - fields of a lease
    from dataclasses import replace  # noqa: PLC0415

    return replace(lease, **changes)


def operate(world: World, environment: Environment) -> None:
    """Change the budget and the shards, sometimes at the same time as another operator."""
    random, operations = environment.random, environment.operations()
    environment.freezable = True
    while True:
        environment.process.sleep(int(random.expovariate(1 / world.settings.budget_change_s) * SECOND))
        if random.random() < 0.6:  # at the same moment as the other operator
            environment.process.sleep(-world.hub.now_us % (10 * SECOND))
        for _ in range(random.choice((1, 1, 3))):  # one who changes his mind, now and then
            _set_budget(world, environment, operations)
            environment.process.sleep(int(random.random() ** 2 * 4 * SECOND))


def _set_budget(world: World, environment: Environment, operations: Operations) -> None:
    budget, shards = world.settings.choice_of_budget(environment.random)
    rate = world.settings.rate_of(environment.random)
    world.note("budget", environment.name, budget, shards, *rate.values())
    world.tally.fault("budget changed")
    try:
        operations.set_budget(world.database, budget, shards=shards, **rate)
    except GovernorUnavailable as error:
        world.tally.outcomes[f"set_budget: {type(error).__name__}"] += 1


def look_after(world: World, environment: Environment) -> None:
    """Run the janitor's rounds, about one a minute."""
    random, janitor = environment.random, environment.janitor()
    environment.freezable = True
    while True:
        late = 5 if random.random() < 0.1 else 1
        environment.process.sleep(int((0.8 + 0.4 * random.random()) * late * world.settings.janitor_s * SECOND))
        try:
            janitor.round(world.database)
            world.tally.outcomes["janitor's round"] += 1
        except (GovernorUnavailable, UnknownDatabase) as error:
            world.tally.outcomes[f"janitor: {type(error).__name__}"] += 1
