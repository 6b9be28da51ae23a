"""The places where the same test bodies run: in memory, on DynamoDB Local, and through the deployed function."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.aws.invoke import FunctionCaller
from connection_governor.client.remote import RemoteGovernor
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Refusal, Renewal, Settings, Shard, Wanted
from connection_governor.core.operations import Operations
from connection_governor.core.rules import connections_of
from connection_governor.metrics import Reporter
from connection_governor.server.payloads import Requests
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from tests.support.faulty_store import FaultyStore
from tests.support.virtual import Journal, SetEntropy, VirtualClock

if TYPE_CHECKING:
    from connection_governor.aws.client import Endpoint
    from connection_governor.client.acquire import Transport
    from connection_governor.client.remote import Invoke
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.status import Status
    from connection_governor.core.store import LeaseStore
    from harness.stack.local_stack import Stack

LEASE_MS = 30_000
SKEW_MS = 1_000


def is_whole(shard: Shard) -> bool:
    """Return whether the counter equals the leases, as promise 4 says."""
    return shard.in_use == connections_of(tuple(shard.leases.items()))


def environment_of(endpoint_url: str, table: str, **more: str) -> Environment:
    """Return the variables with which the production code reaches an emulator."""
    return Environment(
        {
            "AWS_ENDPOINT_URL_DYNAMODB": endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "GOVERNOR_TABLE": table,
            **more,
        }
    )


def endpoint_of(endpoint_url: str) -> Endpoint:
    """Return the production wire client's end at an emulator; the caller closes it."""
    return environment_of(endpoint_url, "none").endpoint("dynamodb", read_timeout_s=20.0)


def new_table(endpoint: Endpoint) -> str:
    """Make a table as the template makes it, and return its name."""
    name = f"leases-{uuid.uuid4().hex[:12]}"
    definition = {
        "TableName": name,
        "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    DynamoDBCaller(endpoint)("CreateTable", definition)
    return name


def local_store(endpoint: Endpoint) -> DynamoDBStore:
    """Return a new, empty table, reached by the production wire client."""
    return DynamoDBStore(DynamoDBCaller(endpoint), new_table(endpoint))


class RunningClock(VirtualClock):
    """The real one, for a world whose clock no test can set: tests ask for ends in the past instead."""

    @property
    def now(self) -> int:
        """The system's time."""
        return SYSTEM_CLOCK.now_ms()

    @now.setter
    def now(self, _now: int) -> None:
        """Leave it as it is."""


@dataclass
class World:
    """One table's governor with a clock that the test moves, faults that it plans, and what can be seen of it all.

    Attributes:
        store: what the engine talks to; plan faults here.
        truth: the store behind, to look at without faults.
        transport: the verbs, as a worker reaches them.
    """

    truth: LeaseStore
    database: str = "orders"
    clock: VirtualClock = field(default_factory=VirtualClock)
    entropy: SetEntropy = field(default_factory=SetEntropy)
    journal: Journal = field(default_factory=Journal)

    def __post_init__(self) -> None:
        self.store = FaultyStore(self.truth)
        self.operations = Operations(self.store, self.clock, self.entropy)
        self.engine = Engine(self.store, self.clock, self.entropy)
        self.service = Service(self.engine, lambda: self.operations, Reporter(self.journal), self.clock)
        self.requests = Requests(self.service, self.clock, self.entropy)
        self.transport: Transport = self.service

    def another_engine(self, *, ahead_ms: int = 0) -> Engine:
        """Return a second environment on the same table, with nothing remembered, and perhaps another clock."""
        return Engine(self.store, VirtualClock(self.clock.now + ahead_ms), self.entropy)

    def wanted(
        self,
        database: str | None = None,
        *,
        connections: int = 1,
        ends_in_ms: int = LEASE_MS,
        holder: str = "checkout/2f1c",
        lease_id: str | None = None,
    ) -> Wanted:
        """Return a lease to ask for."""
        lease_id = self.entropy.lease_id() if lease_id is None else lease_id
        return Wanted(database or self.database, lease_id, holder, connections, self.clock.now_ms() + ends_in_ms)

    def acquire(self, database: str | None = None, **options: Any) -> Grant | Refusal:  # noqa: ANN401 - as `wanted`
        """Return one try, through the transport."""
        return self.transport.acquire(self.wanted(database, **options))

    def lend(self, database: str | None = None, **options: Any) -> Lease:  # noqa: ANN401 - as `wanted`
        """Return a lease that must be granted."""
        outcome = self.acquire(database, **options)
        assert isinstance(outcome, Grant), outcome
        return outcome.lease

    def lend_long_ago(self, *, connections: int = 1, ends_in_ms: int) -> Lease:
        """Return a lease that has expired: written past the function, which refuses an expiry in the past."""
        outcome = self.engine.acquire(self.wanted(connections=connections, ends_in_ms=ends_in_ms))
        assert isinstance(outcome, Grant), outcome
        return outcome.lease

    def refuse(self, database: str | None = None, **options: Any) -> Refusal:  # noqa: ANN401 - as `wanted`
        """Return a refusal that must come."""
        outcome = self.acquire(database, **options)
        assert isinstance(outcome, Refusal), outcome
        return outcome

    def try_renew(self, lease: Lease, *, ends_in_ms: int = LEASE_MS) -> Renewal | Refusal | None:
        """Renew through the transport; return its answer, whatever it is."""
        return self.transport.renew(lease, expires_at_ms=self.clock.now_ms() + ends_in_ms)

    def renew(self, lease: Lease, *, ends_in_ms: int = LEASE_MS) -> Lease | None:
        """Renew through the transport; return the lease with its new expiry, or None if it is no longer held."""
        renewal = self.try_renew(lease, ends_in_ms=ends_in_ms)
        assert not isinstance(renewal, Refusal), renewal
        return renewal.lease if renewal else None

    def prolong(self, lease: Lease, *, ends_in_ms: int = 2 * LEASE_MS) -> Lease:
        """Return a renew that must succeed."""
        renewed = self.renew(lease, ends_in_ms=ends_in_ms)
        assert renewed is not None
        return renewed

    def release(self, lease: Lease) -> bool:
        """Release through the transport."""
        return self.transport.release(lease)

    def status(self, database: str | None = None) -> Status:
        """Return the stored status, without faults."""
        return Operations(self.truth, self.clock, self.entropy).status(database or self.database)

    def shards(self, database: str | None = None) -> tuple[Shard, ...]:
        """Return every shard as it is stored; each must be whole, whatever the test did."""
        shards = self.status(database).shards
        assert all(is_whole(shard) for shard in shards), shards
        return shards

    def shard(self, database: str | None = None) -> Shard:
        """Return the only shard of a database."""
        (shard,) = self.shards(database)
        return shard

    def settings(self, database: str | None = None) -> Settings | None:
        """Return the stored settings."""
        return self.truth.settings(database or self.database, consistent=True)

    def picture(self, *databases: str) -> list[object]:
        """Return everything that is stored for these databases, to compare before and after."""
        found: list[object] = []
        for database in databases or (self.database,):
            settings = self.settings(database)
            found.append(settings)
            if settings is not None:
                found += self.truth.read(settings.keys, consistent=True)
        return found


class DeployedRequests:
    """The deployed function's answers, through Lambda."""

    def __init__(self, call: Invoke) -> None:
        self._call = call

    def answer(self, request: object) -> object:
        """Answer as `Requests.answer` does, in another process."""
        body, error = self._call(json.dumps(request).encode())
        assert error is None, body
        return json.loads(body)


def through_payloads(world: World) -> World:
    """Return the same world, reached as the `lambda` transport reaches it: JSON there and back."""

    def invoke(payload: bytes, _deadline: Deadline | None = None) -> tuple[bytes, str | None]:
        return json.dumps(world.requests.answer(json.loads(payload))).encode(), None

    world.transport = RemoteGovernor(invoke, world.clock, world.entropy)
    return world


@dataclass(frozen=True)
class Deployment:
    """The governor function that sam deployed, and the table behind it.

    Attributes:
        table: a store in the deployed table.
        call: invokes the function.
        endpoints: what to close.
    """

    table: DynamoDBStore
    call: FunctionCaller
    endpoints: tuple[Endpoint, Endpoint]

    @classmethod
    def of(cls, stack: Stack) -> Deployment:
        """Return the world of a running stack."""
        environment = Environment({**stack.variables, **stack.aws.variables})
        table, function = environment.endpoint("dynamodb"), environment.endpoint("lambda", read_timeout_s=20.0)
        store = DynamoDBStore(DynamoDBCaller(table), environment.required("GOVERNOR_TABLE"))
        return cls(store, FunctionCaller(function, environment.required("GOVERNOR_FUNCTION")), (table, function))

    def world(self) -> World:
        """Return a new database in it."""
        world = World(self.table, database=f"w{uuid.uuid4().hex[:8]}", clock=RunningClock())
        world.transport = RemoteGovernor(self.call, world.clock, world.entropy)
        world.requests = cast("Requests", DeployedRequests(self.call))
        return world
