"""The rules of a budget change. Pure, like `rules`: how capacity moves between shards without counting twice.

    phase   which shards            condition of the write            new `allowed`
    ------  ----------------------  --------------------------------  ----------------------------------------
    stamp   all, also unchanged     an older plan, `allowed` as read  the lower of what it has and its share
    raise   those below their share this plan, `allowed` as read      more, by what has really come back

Raising starts only when every shard carries the plan's number: from then on no older plan can write any more. Several
executors of one plan (operator, janitor) may run at once and crash anywhere: raises are made in strict index order,
each conditional on what was read, so capacity that two of them see as free is never handed out twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.rules import share
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.lease import Settings, Shard, ShardKey


@dataclass(frozen=True, slots=True)
class Change:
    """One shard's new `allowed`, to be written only if the shard still has `allowed_as_read`."""

    key: ShardKey
    allowed_as_read: int
    allowed: int

    @property
    def added(self) -> int:
        """By how much the shard's counter moves."""
        return self.allowed - self.allowed_as_read


def stamps(shards: Sequence[Shard], settings: Settings) -> list[Change]:
    """Return what the stamp phase has left to write: every shard with an older plan, lowered to its share or kept."""
    return [
        Change(shard.key, shard.allowed, min(shard.allowed, share(settings.allowed, settings.shards, shard.key.index)))
        for shard in shards
        if shard.plan < settings.plan
    ]


def is_superseded(shards: Sequence[Shard], settings: Settings) -> bool:
    """Return whether a newer plan has begun: this one must then write nothing more."""
    return any(shard.plan > settings.plan for shard in shards)


def raises(shards: Sequence[Shard], settings: Settings) -> list[Change]:
    """Return what the raise phase may write now: in strict index order, and no more than has come back.

    What a lowered shard still has in use above its part counts as taken until it is released or reclaimed.
    The order makes two executors of one plan safe. A shard is raised only once all before it have their share. So two
    executors that find the same room aim at the same shard, and only one of their conditional writes succeeds. If more
    is committed than the budget has, no shard is raised, not even to what it has in use: the reads of several items are
    no snapshot. One of them may show as in use what has since come back and been handed out elsewhere.
    """
    room = settings.allowed - sum(_committed(shard) for shard in shards)
    changes = []
    for shard in sorted(shards, key=lambda shard: shard.key.index):
        part = share(settings.allowed, settings.shards, shard.key.index)
        target = min(part, _committed(shard) + room)  # the budget less what all others have, also if that is less
        room -= max(target - _committed(shard), 0)
        if target > shard.allowed:
            changes.append(Change(shard.key, shard.allowed, target))
        if target < part:
            break
    return changes


def is_settled(shards: Sequence[Shard], settings: Settings) -> bool:
    """Return whether every shard carries this plan and has its whole share: nothing is left to move."""
    return all(
        shard.plan == settings.plan and shard.allowed == share(settings.allowed, settings.shards, shard.key.index)
        for shard in shards
    )


def is_short(shard: Shard, settings: Settings) -> bool:
    """Return whether a shard that carries this plan waits for capacity to come back from others."""
    return shard.plan <= settings.plan and shard.allowed < share(settings.allowed, settings.shards, shard.key.index)


def _committed(shard: Shard) -> int:
    return max(shard.allowed, shard.in_use)
