"""Find out whether the whole budget can be granted: acquire all of it at once, and release it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Wanted
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring import Environment
from connection_governor.wiring.table import dynamodb_store
from harness.demo.observer import now_ms, operations_of
from harness.stack.deployment import DATABASE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.stack.local_stack import Reachable

LEASE_MS = 5_000
EACH_S = 0.1


def wait_for_full_budget(stack: Reachable, *, timeout_s: float, meanwhile: Callable[[], None]) -> int | None:
    """Try to acquire the whole budget until it is granted.

    Args:
        stack: the running stack.
        timeout_s: when to give up.
        meanwhile: called between tries.

    Returns:
        When it was granted, in milliseconds since 1970, or None if it was not.
    """
    engine, pieces = _engine(stack), _pieces(stack)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if _all_granted(engine, pieces):
            return now_ms()
        meanwhile()
        time.sleep(EACH_S)
    return None


def leaked(stack: Reachable) -> int:
    """Return how much of the budget is still in use when no worker can hold any of it.

    An expired lease stays stored until an acquire needs its slot. So the whole budget is acquired first. What is
    still in use after that was released is lost.
    """
    _all_granted(_engine(stack), _pieces(stack))
    return operations_of(stack).status(DATABASE_NAME).in_use


def _engine(stack: Reachable) -> Engine:
    return Engine(dynamodb_store(Environment(stack.variables)), SYSTEM_CLOCK, SYSTEM_ENTROPY)


def _pieces(stack: Reachable) -> list[int]:
    return pieces_of([shard.allowed for shard in operations_of(stack).status(DATABASE_NAME).shards])


def pieces_of(shares: list[int]) -> list[int]:
    """Return lease sizes that add up to the budget: the smallest share for each shard, then single connections."""
    least = min(shares)
    return [least] * len(shares) + [1] * (sum(shares) - least * len(shares))


def _all_granted(engine: Engine, pieces: list[int]) -> bool:
    held: list[Lease] = []
    try:
        for connections in pieces:
            expires_at_ms = now_ms() + LEASE_MS
            wanted = Wanted(DATABASE_NAME, SYSTEM_ENTROPY.lease_id(), "probe", connections, expires_at_ms)
            answer = engine.acquire(wanted)
            if not isinstance(answer, Grant):
                return False
            held.append(answer.lease)
        return True
    finally:
        for lease in held:
            engine.release(lease)
