"""A process whose threads acquire and release over a bad network, and record each call and each return.

Run as a program, as `crowd`, whose protocol it speaks; the journal's lines are operations as JSON.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Wanted
from connection_governor.errors import GovernorUnavailable
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring import Environment
from connection_governor.wiring.table import dynamodb_store
from tests.conformance.crowd import DATABASE, serve
from tests.conformance.linearizability import ACQUIRE, NO, RELEASE, UNKNOWN, YES, Operation
from tests.support.faulty_store import LOST, LOST_ANSWER, READS, SENT_AGAIN, Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

# Not TWICE: a duplicate that arrives after its acquire was refused may hold a slot until its own end. That is promised.
FAULTS = [LOST, LOST_ANSWER, LOST_ANSWER, SENT_AGAIN]
FAULT_RATE = 0.3
LONGEST_HOLD_S = 0.05


class BadNetwork(FaultyStore):
    """Loses requests and answers, and repeats writes, at random."""

    def _planned(self, method: str) -> Fault | None:
        self.calls.clear()
        return random.choice(FAULTS) if method not in READS and random.random() < FAULT_RATE else None


class Recorder:
    """One environment that records its requests and the answers."""

    def __init__(self, journal: IO[bytes], lease_ms: int) -> None:
        self._journal = journal
        self._lease_ms = lease_ms
        store = BadNetwork(dynamodb_store(Environment.current()))
        self._engine = Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)

    def record(self, until: float) -> None:
        """Acquire, hold for a moment, release; also release a lease whose outcome is unknown."""
        while time.monotonic() < until:
            lease = self._acquire()
            time.sleep(random.random() * LONGEST_HOLD_S)
            if lease is not None:
                self._note(RELEASE, lease, lambda: self._engine.release(lease) is not None)  # noqa: B023 - called at once

    def _acquire(self) -> Lease | None:
        end_ms = SYSTEM_CLOCK.now_ms() + self._lease_ms
        wanted = Wanted(DATABASE, SYSTEM_ENTROPY.lease_id(), "recorder", random.choice([1, 1, 1, 2]), end_ms)
        key = self._engine.settings(DATABASE).keys[0]
        lease = wanted.granted_by(key, None)

        def attempt() -> bool:
            nonlocal lease
            outcome = self._engine.acquire(wanted)
            lease = outcome.lease if isinstance(outcome, Grant) else lease
            return isinstance(outcome, Grant)

        return None if self._note(ACQUIRE, lease, attempt) == NO else lease

    def _note(self, kind: str, lease: Lease, call: Callable[[], bool]) -> str:
        called_ns = time.monotonic_ns()
        try:
            outcome = YES if call() else NO
        except GovernorUnavailable:
            outcome = UNKNOWN
        operation = Operation(kind, lease.lease_id, outcome, called_ns, time.monotonic_ns(), lease.connections)
        self._journal.write(json.dumps(asdict(operation)).encode() + b"\n")
        return outcome


if __name__ == "__main__":
    serve(Recorder)
