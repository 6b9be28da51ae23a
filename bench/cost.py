"""What a million cycles cost, from requests and log bytes counted here, and from AWS's prices as of `PRICES_READ`."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.connections import KEEP_SECONDS, warm_requests
from bench.measure import FULL, Effort
from bench.results import Row
from bench.tables import DATABASE, governed_table
from connection_governor.client.governor import Governor
from connection_governor.wiring import Environment, governor_parts
from connection_governor.wiring.table import requests
from harness.stack.dynamodb_local import dynamodb_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from connection_governor.aws.dynamodb import DynamoDBStore
    from connection_governor.core.deadline import Deadline

NAME = "cost"
PRICES_READ = "2025-11-21"  # us-east-1, in dollars
WRITE_UNIT, READ_UNIT = 0.625e-6, 0.125e-6
LAMBDA_REQUEST, LAMBDA_GB_SECOND = 0.20e-6, 0.0000133334  # arm64
PUT_METRIC_DATA = 0.01e-3
LOG_GB = 0.50
PROXY_VCPU_HOUR, LEAST_VCPUS, HOURS_A_MONTH = 0.015, 2, 730
FUNCTION_GB = 0.25
FUNCTION_S = (
    0.010  # assumed: one DynamoDB round trip, and our CPU time on a seventh of a core; Lambda bills milliseconds
)
PLATFORM_LOG_BYTES = 330  # START, END and REPORT of one invocation
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Counted:
    """One cycle: its requests to AWS.

    Attributes:
        write_units, read_units: of DynamoDB, as DynamoDB Local says in ConsumedCapacity.
        invocations: of the governor function (or the sample's helper).
        metric_calls: PutMetricData.
        log_bytes: that we write, and that Lambda writes about the invocations.
    """

    write_units: float = 0.0
    read_units: float = 0.0
    invocations: int = 0
    metric_calls: int = 0
    log_bytes: float = 0.0

    def dollars(self) -> float:
        """Return the price of a million of them."""
        function = self.invocations * (LAMBDA_REQUEST + FUNCTION_GB * FUNCTION_S * LAMBDA_GB_SECOND)
        table = self.write_units * WRITE_UNIT + self.read_units * READ_UNIT
        logs = (self.log_bytes + self.invocations * PLATFORM_LOG_BYTES) / 1024**3 * LOG_GB
        return MILLION * (table + function + self.metric_calls * PUT_METRIC_DATA + logs)


class Meter:
    """Asks DynamoDB for the capacity of each request, and adds it up."""

    def __init__(self, store: DynamoDBStore) -> None:
        self._send = store._send  # noqa: SLF001  # a benchmark looks behind the store on purpose
        self.write_units = self.read_units = 0.0
        store._send = self  # noqa: SLF001

    def __call__(self, operation: str, payload: Mapping[str, Any], deadline: Deadline | None = None) -> dict[str, Any]:
        """See `DynamoDBCall`."""
        answer = self._send(operation, {**payload, "ReturnConsumedCapacity": "TOTAL"}, deadline)
        consumed = answer.get("ConsumedCapacity", {})
        units = sum(each["CapacityUnits"] for each in (consumed if isinstance(consumed, list) else [consumed]))
        if operation == "UpdateItem":
            self.write_units += units
        else:
            self.read_units += units
        return answer


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Yield each mode and the published sample, with the traffic above which RDS Proxy is cheaper."""
    cycles = 200 if effort is FULL else 2
    proxy = PROXY_VCPU_HOUR * LEAST_VCPUS * HOURS_A_MONTH
    for name, counted in modes(cycles).items():
        dollars = counted.dollars()
        equal = proxy / dollars * MILLION
        each_second = equal / (HOURS_A_MONTH * 3_600)
        yield Row(
            NAME,
            f"a million cycles, {name}",
            "",
            f"${dollars:.2f}; RDS Proxy (${proxy:.2f} a month) is cheaper above {each_second:,.1f} a second, all month",
            None,
            {**asdict(counted), "dollars": dollars, "cycles_a_month_at_proxys_price": equal},
        )


def modes(cycles: int) -> dict[str, Counted]:
    """Return one cycle of each mode, averaged over many, on a shard with 18 other leases."""
    with dynamodb_local() as url:
        worker = governed_table(url, held=18)
        return {
            "`direct`": _direct(worker, cycles),
            "`lambda`": _function(worker, cycles, _acquire_and_release, invocations=2),
            f"kept (`direct`, one a second, keep_seconds {KEEP_SECONDS})": _kept(),
            "the sample's payload to our function": _function(worker, cycles, _reference, invocations=2),
            "the published sample": Counted(write_units=2, invocations=2, metric_calls=2),
        }


def _direct(worker: Environment, cycles: int) -> Counted:
    parts = governor_parts(worker)
    meter, governor = Meter(_store_behind(parts["transport"])), Governor(**parts)
    return _counted(meter, cycles, lambda: governor.release(governor.acquire()))


def _kept() -> Counted:
    """Count renewals and the few writes of the start; only the first acquire and the last release write to the log."""
    return Counted(write_units=warm_requests(600))


def _function(
    worker: Environment, cycles: int, cycle: Callable[[Callable[[Any], Any]], object], *, invocations: int
) -> Counted:
    handler = requests(worker)
    meter = Meter(_store_behind(handler._service))  # noqa: SLF001  # see above
    counted = _counted(meter, cycles, lambda: cycle(handler.answer))
    return Counted(counted.write_units, counted.read_units, invocations, 0, counted.log_bytes)


def _acquire_and_release(answer: Callable[[Any], Any]) -> None:
    granted = answer({"action": "acquire", "database": DATABASE, "holder": "checkout/2f1c9e8d"})
    assert answer({"action": "release", "lease": json.loads(json.dumps(granted["lease"]))}) == {"released": True}


def _reference(answer: Callable[[Any], Any]) -> None:
    assert answer({"incrementCounter": True, "RDBMSName": DATABASE}) is True
    assert answer({"incrementCounter": False, "RDBMSName": DATABASE}) is True


def _counted(meter: Meter, cycles: int, cycle: Callable[[], object]) -> Counted:
    log = io.StringIO()
    with redirect_stdout(log):
        cycle()  # reads the settings, as once a minute: not counted
        log.truncate(0)
        log.seek(0)
        meter.write_units = meter.read_units = 0
        for _ in range(cycles):
            cycle()
    bytes_each = len(log.getvalue().encode()) / cycles
    return Counted(meter.write_units / cycles, meter.read_units / cycles, log_bytes=bytes_each)


def _store_behind(service: Any) -> DynamoDBStore:  # noqa: ANN401  # see above
    store: DynamoDBStore = service._engine._store  # noqa: SLF001  # its operations have the same one
    return store
