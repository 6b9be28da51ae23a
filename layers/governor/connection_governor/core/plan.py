"""The rules of a budget change. Pure, like `rules`: how capacity moves between shards without counting twice.

    phase   which shards            condition of the write            new `allowed`
    ------  ----------------------  --------------------------------  ----------------------------------------
    stamp   all, also unchanged     an older plan, `allowed` as read  the lower of what it has and its share
    raise   those below their share this plan, `allowed` as read      more, by what has really come back

Raising starts only when every shard carries the plan's number: from then on no older plan can write any more. Several
executors of one plan (operator, janitor) may run at once and crash anywhere: raises are made in strict index order,
each conditional on what was read, so capacity that two of them see as free is never handed out twice.

Where the opening rate is limited, no token may be granted twice either:

- A stamp that gives a shard a new pace empties its bucket: what the fleet has spent elsewhere cannot be seen here.
- The shards that a plan closes are stamped first, and read again before the rest, which get a higher rate then. The
  last comes first, so that also with several plans under way no shard has an older plan than one before it.
- Callers may have taken tokens that are not due yet. A shard with a new pace, or one that opens, grants none before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core import opening
from connection_governor.core.rules import share
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.lease import Settings, Shard, ShardKey


@dataclass(frozen=True, slots=True)
class Change:
    """One shard's new `allowed`, to be written only if the shard still has `allowed_as_read`.

    `opens_us`: what its `opens` becomes, unless it is later; None: it stays. `opens_as_read`: None if there is none.
    `unlimited`: its `opens` is removed.
    """

    key: ShardKey
    allowed_as_read: int
    allowed: int
    opens_us: int | None = None
    opens_as_read: int | None = None
    unlimited: bool = False

    @property
    def added(self) -> int:
        """By how much the shard's counter moves."""
        return self.allowed - self.allowed_as_read


def stamps(shards: Sequence[Shard], settings: Settings, *, now_ms: int) -> list[Change]:
    """Return what the stamp phase has left to write: every shard with an older plan, lowered to its share or kept.

    The last shard comes first, and with a limited opening rate those that the plan closes come alone: see above.
    """
    older = [shard for shard in reversed(shards) if shard.plan < settings.plan]
    if settings.opens_per_second:
        older = [shard for shard in older if shard.key.index >= settings.shards] or older
    return [
        Change(
            shard.key,
            shard.allowed,
            min(shard.allowed, share(settings.allowed, settings.shards, shard.key.index)),
            opens_us=_emptied_us(shard, shards, settings, now_ms),
            opens_as_read=shard.opens_us,
            unlimited=not settings.opens_per_second and shard.opens_us is not None,
        )
        for shard in older
    ]


def _emptied_us(shard: Shard, shards: Sequence[Shard], settings: Settings, now_ms: int) -> int | None:
    """Return what a shard's `opens` is set to, if this plan gives it a new pace; None: it stays."""
    if not settings.opens_per_second or (shard.opens_us is not None and shard.plan >= settings.rate_plan):
        return None
    return _later(shard, max(opening.empty_from_us(settings, now_ms=now_ms), _last_due_us(shards)))


def _opened_us(shard: Shard, shards: Sequence[Shard], settings: Settings) -> int | None:
    """Return what the `opens` of a shard is set to that granted nothing and now may; None: it stays."""
    if not settings.opens_per_second or shard.allowed > 0:
        return None
    return _later(shard, _last_due_us(shards))


def _last_due_us(shards: Sequence[Shard]) -> int:
    return max((shard.opens_us or 0 for shard in shards), default=0)


def _later(shard: Shard, opens_us: int) -> int | None:
    return opens_us if shard.opens_us is None or shard.opens_us < opens_us else None


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
            opens_us = _opened_us(shard, shards, settings)
            changes.append(Change(shard.key, shard.allowed, target, opens_us, shard.opens_us))
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
