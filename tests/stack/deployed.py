"""Ground for drills under the deployed functions: a budget of four, and a fault proxy between them and DynamoDB."""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Wanted
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.demo.background import in_background
from harness.demo.load import Wave, load_of, together
from harness.demo.observer import now_ms
from harness.demo.recording import Hold
from harness.demo.referee import WORKER_USER, referee_of
from harness.demo.summary import longest_lease_ms
from harness.load_function.load.tally import TOO_MANY_CONNECTIONS
from harness.stack.deployment import DATABASE_NAME
from tests.stack.crew import Refused
from tests.stack.drills import DETECTION_MS, Verdict, first_success_ms, in_use
from tests.support.fault_proxy import FaultProxy
from tests.support.worlds import endpoint_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.demo.recording import Load
    from harness.stack.local_stack import Stack

BUDGET = 4
WAVE = Wave(iterations=15, concurrency=6, profile="steady", seed=5, governed=True)
PROBE_LEASE_MS = 2_000
PATIENCE_S = 60.0  # of set-up: environments start cold, on a machine that others use too
GOVERNOR, WORKER = "GovernorFunctionName", "WorkerFunctionName"


@dataclass(frozen=True)
class Deployed:
    """The running stack, whose worker and governor reach DynamoDB through `proxy`; `store` does not."""

    stack: Stack
    proxy: FaultProxy
    store: DynamoDBStore

    @property
    def operations(self) -> Operations:
        """The operator's verbs."""
        return Operations(self.store, SYSTEM_CLOCK, SYSTEM_ENTROPY)

    def set_budget(self, allowed: int) -> None:
        """Set the table's budget, and MySQL's own limit with it."""
        self.operations.set_budget(DATABASE_NAME, allowed)
        self.stack.database.execute(f"ALTER USER '{WORKER_USER}'@'%' WITH MAX_USER_CONNECTIONS {allowed}")

    @contextmanager
    def load(self) -> Iterator[Pressure]:
        """Keep the deployed harness function's loads running; continue when its workers have sessions."""
        pressure = Pressure(self.stack)
        try:
            self.wait_for_sessions(2)
            yield pressure
        finally:
            pressure.end()

    def sessions(self) -> int:
        """Return the workers' sessions, by MySQL's count."""
        with closing(referee_of(self.stack.database)) as referee:
            return referee.sessions()

    def wait_for_sessions(self, count: int) -> None:
        """Wait until MySQL counts so many sessions."""
        ends_at = time.monotonic() + PATIENCE_S
        while self.sessions() < count:
            assert time.monotonic() < ends_at, "the workers do not come"
            time.sleep(0.02)

    def judged(
        self, name: str, what_happened: str, over_ms: int, holds: list[Hold], refused: list[Refused] | None = None
    ) -> Verdict:
        """Measure when the full budget is back, from the end of the fault; no worker may be running."""
        held = [Hold(h.from_ms, h.lease_ends_ms or h.to_ms, h.lease_ends_ms, True) if h.crashed else h for h in holds]
        lease_ms = longest_lease_ms(held)
        skew_ms, probes = self.operations.status(DATABASE_NAME).settings.skew_ms, list[Hold]()
        give_up_ms = over_ms + lease_ms + skew_ms + 3 * DETECTION_MS
        back_ms = first_success_ms(lambda: self._whole_budget(probes), give_up_ms)
        back_after_ms = None if back_ms is None else back_ms - over_ms
        return Verdict(
            name,
            what_happened,
            held,
            probes,
            lease_ms,
            back_after_ms,
            refused or [],
            skew_ms=skew_ms,
            budget=BUDGET,
            in_use_after=in_use(self.operations, DATABASE_NAME),
        )

    def _whole_budget(self, probes: list[Hold]) -> bool:
        engine, taken = Engine(self.store, SYSTEM_CLOCK, SYSTEM_ENTROPY), list[tuple[int, Lease]]()
        try:
            for _ in range(BUDGET):
                end_ms = now_ms() + PROBE_LEASE_MS
                outcome = engine.acquire(Wanted(DATABASE_NAME, SYSTEM_ENTROPY.lease_id(), "probe", 1, end_ms))
                if not isinstance(outcome, Grant):
                    return False
                taken.append((now_ms(), outcome.lease))
            return True
        finally:
            until_ms = now_ms()
            for from_ms, lease in taken:
                probes.append(Hold(from_ms, until_ms, lease.expires_at_ms, crashed=False))
                engine.release(lease)


@dataclass(frozen=True)
class Fleet:
    """What the deployed harness function's loads came to; `refused` by MySQL itself."""

    load: Load
    refused: list[Refused]

    @classmethod
    def run(cls, stack: Stack) -> Fleet:
        """Run one load."""
        from_ms = now_ms()
        answer = stack.invoke("HarnessFunctionName", WAVE.event(), timeout_s=300)
        columns = answer["details"]["columns"]
        rows = [dict(zip(columns, row, strict=True)) for row in answer["details"]["rows"]]
        refused = [Refused(r["mysql_error"], r["started_ms"]) for r in rows if r["mysql_error"] in TOO_MANY_CONNECTIONS]
        return cls(load_of(answer, from_ms, now_ms()), refused)

    def in_words(self, what_happened: str) -> str:
        """Return what happened, with the errors that the workers answered."""
        errors = [f"{count} x {reason}" for reason, count in self.load.error_reasons.items()]
        return ", ".join([what_happened, *errors])


class Pressure:
    """One load after the other, in a thread, and one more after the fault."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._over = threading.Event()
        self._task = in_background(self._run)

    def end(self) -> Fleet:
        """Let the last load begin and end; return all loads as one."""
        self._over.set()
        return self._task.result()

    def _run(self) -> Fleet:
        fleets: list[Fleet] = []
        while not self._over.is_set():
            fleets.append(Fleet.run(self._stack))
        fleets.append(Fleet.run(self._stack))
        loads = together(*(fleet.load for fleet in fleets))
        return Fleet(loads, [refused for fleet in fleets for refused in fleet.refused])


@contextmanager
def deployed_ground(stack: Stack) -> Iterator[Deployed]:
    """Yield the running stack with a budget of four and the proxy in between; restore all of it at the end."""
    url = stack.aws.endpoint_url
    table = stack.deployment.outputs["TableName"]
    with FaultProxy(url) as proxy, closing(endpoint_of(url)) as endpoint:
        ground = Deployed(stack, proxy, DynamoDBStore(DynamoDBCaller(endpoint), table))
        through = {"AWS_ENDPOINT_URL_DYNAMODB": proxy.url}
        with changed_function(stack, WORKER, through), changed_function(stack, GOVERNOR, through):
            ground.set_budget(BUDGET)
            try:
                yield ground
            finally:
                ground.set_budget(stack.allowed)


@contextmanager
def changed_function(stack: Stack, output: str, variables: dict[str, str], **more: Any) -> Iterator[None]:  # noqa: ANN401 - any part of a function's configuration
    """Change a deployed function's environment for a while, as an operator could; this replaces its processes."""
    client, name = stack.aws.client("lambda"), stack.deployment.outputs[output]
    before = client.get_function_configuration(FunctionName=name)
    usual = before["Environment"]["Variables"]
    client.update_function_configuration(FunctionName=name, Environment={"Variables": usual | variables}, **more)
    try:
        yield
    finally:
        back = {setting: before[setting] for setting in more}
        client.update_function_configuration(FunctionName=name, Environment={"Variables": usual}, **back)


def processes_of(stack: Stack, output: str) -> list[int]:
    """Return the processes of a deployed function's environments; none but this stack's."""
    code = f"/ministack-lambda-{stack.deployment.outputs[output]}-".encode()
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(folder.name)
            if code in (folder / "cmdline").read_bytes() and os.getpgid(pid) == stack.aws.group:
                found.append(pid)
    return found
