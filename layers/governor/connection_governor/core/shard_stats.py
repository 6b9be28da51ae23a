"""An environment's memory of the full shards it has seen: when, and how fast their connections change hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.lease import Shard, ShardKey

LONGEST_GAP_MS = 30_000  # a rate measured over a freeze says nothing about now
LATELY_MS = 5_000


class ShardStats:
    """Remembers each full shard from one read to the next; its fence grows with each grant.

    Attributes:
        refilled: the databases whose last grant here found a full bucket of openings: so may the next.
    """

    def __init__(self) -> None:
        self._last: dict[ShardKey, tuple[Shard, int]] = {}
        self._rates: dict[ShardKey, float] = {}
        self.refilled: set[str] = set()

    def note(self, shard: Shard, *, now_ms: int) -> None:
        """Remember a shard that was read just now."""
        last, at_ms = self._last.get(shard.key, (shard, now_ms))
        self._last[shard.key] = (shard, now_ms)
        gap_ms = now_ms - at_ms
        if gap_ms > LONGEST_GAP_MS:
            self._rates.pop(shard.key, None)
        elif gap_ms > 0:
            rate = (shard.fence - last.fence) * 1_000 / gap_ms
            self._rates[shard.key] = (self._rates.get(shard.key, rate) + rate) / 2

    def note_opening(self, database: str, *, was_full: bool) -> None:
        """Remember whether a grant found its shard's bucket of openings full: see `opening`."""
        (self.refilled.add if was_full else self.refilled.discard)(database)

    def per_second(self, key: ShardKey) -> float:
        """Return the shard's grants a second, as last seen; those of other shards if only these are known; else 0."""
        known = self._rates.values()
        return self._rates.get(key, sum(known) / len(known) if known else 0.0)

    def longest_unseen(self, keys: Sequence[ShardKey]) -> list[ShardKey]:
        """Return the same shards, never or longest not seen full first, so that reads spread over all of them."""
        if not self._last:
            return list(keys)
        return sorted(keys, key=lambda key: self._last[key][1] if key in self._last else 0)

    def seen_lately(self, key: ShardKey, *, now_ms: int) -> Shard | None:
        """Return the shard as it was when last seen full, if that is no longer ago than a usual wait."""
        shard, at_ms = self._last.get(key, (None, 0))
        return shard if 0 <= now_ms - at_ms <= LATELY_MS else None
