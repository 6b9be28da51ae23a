"""How fast a shard's connections change hands, from its fence, which grows with each grant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connection_governor.lease import Shard, ShardKey

LONGEST_GAP_MS = 30_000  # a rate measured over a freeze says nothing about now


class Turnover:
    """Remembers each full shard's fence from one look to the next."""

    def __init__(self) -> None:
        self._last: dict[ShardKey, tuple[int, int]] = {}
        self._rates: dict[ShardKey, float] = {}

    def note(self, shard: Shard, *, now_ms: int) -> None:
        """Take in a shard that was seen just now."""
        fence, at_ms = self._last.get(shard.key, (shard.fence, now_ms))
        self._last[shard.key] = (shard.fence, now_ms)
        gap_ms = now_ms - at_ms
        if gap_ms > LONGEST_GAP_MS:
            self._rates.pop(shard.key, None)
        elif gap_ms > 0:
            rate = (shard.fence - fence) * 1_000 / gap_ms
            self._rates[shard.key] = (self._rates.get(shard.key, rate) + rate) / 2

    def per_second(self, key: ShardKey) -> float:
        """Grants a second, as last seen; 0 where nothing is known."""
        return self._rates.get(key, 0.0)
