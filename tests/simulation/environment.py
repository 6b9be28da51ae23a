"""Simulated environments: the production Governor, Engine, Operations and Janitor, each with a clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.client.governor import Governor
from connection_governor.client.ports import Dependencies
from connection_governor.client.remote import RemoteGovernor
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant
from connection_governor.core.operations import Operations
from connection_governor.server.janitor import Janitor
from connection_governor.server.payloads import Requests
from connection_governor.server.service import Service
from tests.simulation.clocks import SkewedClock, stream
from tests.simulation.dialing import VirtualOpener
from tests.simulation.engine_branches import note_grant, note_renewal
from tests.simulation.sessions import VirtualWatch
from tests.support.fleet import SilentReporter
from tests.support.hub import MS, Process
from tests.support.virtual import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.client.acquire import Transport
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease, Refusal, Renewal, Wanted
    from tests.simulation.world import World


class Environment:
    """One execution environment, from its start to its end.

    Attributes:
        process: what runs in it.
        deadline_us: when Lambda stops the present invocation.
        lease_end_us: when the lease that it last got ends.
        waiting_since_us: since when it could have been served, while it waits.
        at_the_limit: whether it is about to start a statement at the last moment that its lease allows.
        freezable: whether it may be frozen for minutes in the middle of its code.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.number = world.next_number()
        self.name = f"{name}.{self.number}"
        self.random = stream(f"{world.seed}/{self.name}")
        self.process = Process(world.hub, self.name)
        self.process.on_failure = world.failed
        self.process.on_brink = world.chaos.on_brink
        settings = world.settings
        self.clock = SkewedClock(
            self.process, self.random, bound_us=settings.clock_bound_ms * MS, drift_ppm=settings.drift_ppm
        )
        self.entropy = SeededEntropy(self.random, self.number)
        self.store = world.table.store_of(self.process, world.network)
        self.deadline_us = 0
        self.waiting_since_us = 0
        self.lease_end_us = 0
        self.freezable = False
        self.at_the_limit = False

    def start(self, body: Callable[[], None]) -> None:
        """Run until the body ends, or it is crashed."""
        self.process.start(body)

    def get_remaining_time_in_millis(self) -> int:
        """Return the time left, as the Lambda context does."""
        return (self.deadline_us - self.world.hub.now_us) // MS

    def operations(self) -> Operations:
        """Return the operator's verbs."""
        return Operations(self.store, self.clock, self.entropy)

    def service(self) -> Service:
        """Return the governor in this environment."""
        engine = Engine(self.store, self.clock, self.entropy)
        return Service(engine, self.operations, SilentReporter(), self.clock)

    def governor(self, *, remote: bool = False, **options: Any) -> Governor:  # noqa: ANN401 - Governor's own options
        """Return a worker's governor, with a witness between it and its transport."""
        transport: Transport = self.service()
        if remote:
            transport = RemoteGovernor(self._invoke, self.clock, self.entropy)
        dependencies = Dependencies(
            self.clock,
            self.entropy,
            SilentReporter(lambda: self.world.sessions.excuse(self.process)),
            make_opener=lambda: VirtualOpener(self.process, self.world.server, self.clock),  # type: ignore[arg-type, return-value]
        )
        return Governor(
            Witness(self, transport),
            dependencies,
            holder=self.name,
            database=self.world.database,
            fence=self.world.settings.fence,
            **options,
        )

    def requests(self) -> Requests:
        """Return the governor function's handler."""
        return Requests(self.service(), self.clock, self.entropy)

    def janitor(self) -> Janitor:
        """Return the janitor, which also watches MySQL."""
        world = self.world
        watch = VirtualWatch(self.process, world.server, world.ledger, world.tally)
        return Janitor(self.operations(), watch, SilentReporter(), self.clock)

    def _invoke(self, payload: bytes, _deadline: Deadline | None = None) -> tuple[bytes, str | None]:
        return self.world.function.invoke(self.process, payload)


class Witness:
    """Between a Governor and its transport: reports to the ledger what the holder is granted and releases."""

    def __init__(self, environment: Environment, transport: Transport) -> None:
        self._environment = environment
        self._world = environment.world
        self._process = environment.process
        self._ledger = environment.world.ledger
        self._tally = environment.world.tally
        self._transport = transport

    def acquire(
        self,
        wanted: Wanted,
        *,
        waiting: bool | None = None,
        last: bool | None = None,
        deadline: Deadline | None = None,
    ) -> Grant | Refusal:
        """See `acquire.Transport`."""
        self._process.call += 1
        world, began_us, is_last = self._world, self._world.hub.now_us, last is not False
        outcome = self._transport.acquire(wanted, waiting=waiting, last=last, deadline=deadline)
        note_grant(self._tally, outcome)
        if isinstance(outcome, Grant):
            self._record_lease(outcome.lease)
        elif is_last and not waiting and wanted.connections == 1 and not outcome.too_fast:
            world.patience.check_refusal(self._process.name, began_us)
        return outcome

    def _record_lease(self, lease: Lease) -> None:
        self._environment.lease_end_us = lease.expires_at_ms * MS
        self._ledger.granted(lease)

    def renew(self, lease: Lease, *, expires_at_ms: int, deadline: Deadline | None = None) -> Renewal | Refusal | None:
        """See `governor.Transport`."""
        self._process.call += 1
        outcome = self._transport.renew(lease, expires_at_ms=expires_at_ms, deadline=deadline)
        renewed = note_renewal(self._tally, outcome)
        if renewed is not None:
            self._record_lease(renewed)
        return outcome

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> bool:
        """See `governor.Transport`."""
        self._process.call += 1
        self._ledger.gives_back(lease)
        released = self._transport.release(lease, deadline=deadline)
        self._tally.outcomes["released" if released else "release: not held"] += 1
        return released

    def status(self, database: str, *, deadline: Deadline | None = None) -> dict[str, Any]:
        """See `governor.Transport`."""
        return self._transport.status(database, deadline=deadline)
