"""What the governor costs: requests counted at the wire, capacity units as DynamoDB tells them, and no metric calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.lease import Grant, Lease, Refusal, Renewal, ShardKey
from connection_governor.core.opening import Opening
from connection_governor.core.plan import Change
from tests.conformance.wire_tap import WireTap, tapped
from tests.support.virtual import VirtualClock
from tests.support.worlds import LEASE_MS, World, endpoint_of, environment_of, new_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.aws.client import Endpoint

ROOT = Path(__file__).parents[2]
LONG_NAME = "Prod_MySQL-with-a-32-byte-name-x"
LEASES = 36


@pytest.fixture(scope="module")
def tap(dynamodb_local: str) -> Iterator[WireTap]:
    with tapped(dynamodb_local) as tap:
        yield tap


@pytest.fixture(scope="module")
def tapped_endpoint(tap: WireTap) -> Iterator[Endpoint]:
    endpoint = endpoint_of(tap.url)
    yield endpoint
    endpoint.close()


@pytest.fixture
def world(tap: WireTap, tapped_endpoint: Endpoint) -> World:
    """Return a database with the longest name and the most connections that one shard gets."""
    table = new_table(tapped_endpoint)
    clock = VirtualClock(1_834_567_891_234)  # no round number: DynamoDB stores trailing zeros for nothing
    world = World(DynamoDBStore(DynamoDBCaller(tapped_endpoint), table), database=LONG_NAME, clock=clock)
    world.operations.set_budget(LONG_NAME, LEASES)
    world.engine.settings(LONG_NAME)
    tap.clear()
    return world


def lend_all(world: World, holder: str = "checkout-service/2f1c") -> list[Lease]:
    """Return a lease for each connection, with the longest tag that is stored."""
    return [world.lend(holder=holder) for _ in range(LEASES)]


def test_acquire_and_release_are_one_request_each(world: World, tap: WireTap) -> None:
    """Each further request is a millisecond for every call of every worker, and money."""
    assert len(LONG_NAME) == 32
    for _ in range(3):
        world.release(world.lend())
    assert tap.operations() == ["UpdateItem"] * 6
    assert all(request.status == 200 for request in tap.seen)


def test_a_renew_and_a_refusal_are_one_request_each(world: World, tap: WireTap) -> None:
    """A refusal that read first, or a renew that looked first, would double the cost of the busiest moments."""
    lease = lend_all(world)[0]
    tap.clear()
    world.prolong(lease)
    world.refuse()
    assert tap.operations() == ["UpdateItem"] * 2


def test_a_takeover_costs_the_refused_write_and_one_more(world: World, tap: WireTap) -> None:
    """What was seen in the refused write's answer must do: no read in between."""
    lend_all(world)
    world.clock.advance(LEASE_MS + 1_001)
    tap.clear()
    world.lend()
    assert tap.operations() == ["UpdateItem"] * 2
    assert [request.status for request in tap.seen] == [400, 200]


def test_a_waiting_caller_reads_half_a_unit_before_it_writes(world: World, tap: WireTap) -> None:
    """Blind polling costs a write unit for each try: ten for each grant under overload."""
    lend_all(world)
    tap.clear()
    assert isinstance(world.engine.acquire(world.wanted(), look_first=True), Refusal)
    assert tap.operations() == ["GetItem"]
    assert tap.seen[0].asked["ConsistentRead"] is False
    assert tap.seen[0].units == 0.5


def test_a_write_costs_one_unit_with_36_leases_in_the_shard(world: World, tap: WireTap) -> None:
    """An item over 1 KB doubles the price of every acquire and release: here is all that can make it long."""
    store, key = world.truth, ShardKey(LONG_NAME, 0)
    leases = lend_all(world, holder="checkout-service")[:-1]
    store.remove(key, ((f"lease{LEASES:03}", world.shard().leases[f"lease{LEASES:03}"]),))
    tap.clear()
    outcome = world.engine.acquire(
        world.wanted(holder="checkout-service"), look_first=True
    )  # marks that a caller waited
    assert isinstance(outcome, Grant)
    assert len(world.shard().leases) == LEASES
    renewed = world.engine.renew(leases[0], expires_at_ms=leases[0].expires_at_ms + 1)
    assert isinstance(renewed, Renewal)
    assert world.release(renewed.lease)
    writes = [request for request in tap.seen if request.operation == "UpdateItem"]
    assert [request.units for request in writes] == [1.0, 1.0, 1.0]


def test_a_shard_of_the_largest_budget_that_is_as_old_as_can_be_stays_within_one_unit(
    world: World, tap: WireTap
) -> None:
    """Numbers grow with the years: fence, plan and opening time must not push a full shard over 1 KB."""
    key = ShardKey(LONG_NAME, 277)
    store = world.truth
    opens_us = 1_834_567_891_234_567  # with a limited opening rate, and no round number either
    store.make_shard(key, 98_765, opens_us)
    assert store.raise_allowed(Change(key, 0, LEASES), 98_765)
    _age(tap, world, key, fence=12_345_678_901)
    token = Opening(0, 2 * opens_us, 10_001, None, 98_765, 98_765)
    for _ in range(LEASES):
        wanted = world.wanted(holder="checkout-service")
        store.grant(key, wanted.lease_id, wanted.record, waited_ms=world.clock.now, opening=token)
    assert tap.seen[-1].status == 200
    assert tap.seen[-1].units == 1.0
    full = tap.seen[-1].answer["Attributes"]
    assert len(full["leases"]["M"]) == LEASES


def _age(tap: WireTap, world: World, key: ShardKey, *, fence: int) -> None:
    """Set the fence as if so many leases had been granted."""
    call = world.truth._call  # type: ignore[attr-defined]
    call(
        "UpdateItem",
        {
            "TableName": world.truth._table,  # type: ignore[attr-defined]
            "Key": {"pk": {"S": f"{key.database}#{key.index}"}},
            "UpdateExpression": "SET fence = :fence",
            "ExpressionAttributeValues": {":fence": {"N": str(fence)}},
        },
    )
    tap.clear()


def test_every_write_to_the_table_is_conditional(world: World, tap: WireTap) -> None:
    """A write without a condition is one that a retry, or a rival, turns into a lost or doubled connection."""
    lease = world.lend()
    world.release(world.prolong(lease))
    world.operations.set_budget(LONG_NAME, 80)
    world.operations.set_budget(LONG_NAME, 1)
    world.lend(ends_in_ms=-LEASE_MS)
    world.lend()
    world.clock.advance(2 * LEASE_MS)
    world.operations.reclaim(LONG_NAME)
    writes = [request for request in tap.seen if request.operation not in ("GetItem", "BatchGetItem")]
    assert {request.operation for request in writes} == {"UpdateItem", "PutItem"}
    assert all(request.asked.get("ConditionExpression") for request in writes)


# No PutMetricData on any path: whom a process connects to, as the interpreter itself tells it.

WATCHED = """
import json, sys
connected = []
def hook(event, arguments):
    if event == "socket.connect":
        connected.append(list(arguments[1][:2]))
sys.addaudithook(hook)
{work}
print(json.dumps(connected), file=sys.stderr)
"""
A_WORKER = """
from connection_governor import Governor, NoConnectionsLeft
governor = Governor.from_env()
with governor.lease(lease_ms=10_000) as lease:
    governor.renew(lease, lease_ms=20_000)
lease = governor.acquire(connections=36)
try:
    governor.acquire(timeout=0.05)
except NoConnectionsLeft:
    pass
governor.status()
governor.release(governor.renew(lease))
"""
THE_FUNCTION = """
import governor
from types import SimpleNamespace
database = {"database": "orders"}
context = SimpleNamespace(get_remaining_time_in_millis=lambda: 10_000)
answer = governor.handler({"action": "acquire", "connections": 36, **database}, context)
assert not governor.handler({"action": "acquire", **database}, context)["granted"]
governor.handler({"action": "status", **database}, context)
answer = governor.handler({"action": "renew", "lease": answer["lease"]}, context)
assert governor.handler({"action": "release", "lease": answer["lease"]}, context)["released"]
assert governor.handler({"incrementCounter": True, "RDBMSName": "orders"}, context) is True
assert governor.handler({"incrementCounter": False, "RDBMSName": "orders"}, context) is True
assert "error" in governor.handler({"action": "acquire", "database": "unknown"}, context)
"""


@pytest.mark.parametrize("work", [A_WORKER, THE_FUNCTION], ids=["worker", "function"])
def test_nothing_but_dynamodb_is_ever_called(work: str, dynamodb_local: str, endpoint: Endpoint) -> None:
    """A PutMetricData costs 10 ms and is throttled by CloudWatch in the very moments when the metric matters."""
    table = new_table(endpoint)
    World(DynamoDBStore(DynamoDBCaller(endpoint), table)).operations.set_budget("orders", 36)
    variables = {**os.environ, **environment_of(dynamodb_local, table, GOVERNOR_DATABASE="orders").variables}
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT / "layers" / "governor"), str(ROOT / "functions")])
    command = [sys.executable, "-c", WATCHED.replace("{work}", work)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    connected = {f"http://{host}:{port}" for host, port in json.loads(done.stderr.splitlines()[-1])}
    assert connected == {dynamodb_local}
    metrics = [line for line in done.stdout.splitlines() if '"_aws"' in line]
    assert sum('"NoConnLeftError":1' in line for line in metrics) >= 1, "they go to the log in their place"


def test_no_code_and_no_policy_knows_the_metric_call() -> None:
    """A path that no test walks must not have it."""
    files = [*(ROOT / "layers").rglob("*.py"), *(ROOT / "functions").glob("*.py"), ROOT / "template.yaml"]
    assert len(files) > 20
    calling = [path.name for path in files if "put_metric_data" in path.read_text("utf-8")]
    granting = [path.name for path in files if "cloudwatch:PutMetricData" in path.read_text("utf-8")]
    assert (calling, granting) == ([], [])
