"""Put overlapping holds into slots, as if the connections were numbered. Pure."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.demo.recording import Hold


def in_slots(holds: Iterable[Hold]) -> Iterator[tuple[Hold, int]]:
    """Yield each hold with the lowest free slot at its start; a dead worker's slot is free when its lease expires."""
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    made = 0
    for hold in sorted(holds, key=lambda hold: hold.from_ms):
        while busy and busy[0][0] <= hold.from_ms:
            heappush(free, heappop(busy)[1])
        if not free:
            free, made = [made], made + 1
        slot = heappop(free)
        heappush(busy, (_free_again_ms(hold), slot))
        yield hold, slot


def _free_again_ms(hold: Hold) -> int:
    return hold.lease_ends_ms if hold.crashed and hold.lease_ends_ms else hold.to_ms
