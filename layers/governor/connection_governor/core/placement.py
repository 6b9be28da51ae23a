"""Where an acquire goes next, from what its pass over the shards has shown so far. Pure, like the rules.

A conditional write costs one unit, lost or not; an eventually consistent read of a shard a tenth (bench/overload.py
measures both). So a newcomer writes to one shard without reading it, and reads only once that shard has refused. A
caller that was refused before reads first, and writes only where that shows room: a read may refuse, never admit.

    the pass so far                                        next move
    -----------------------------------------------------  ------------------------------------------------------
    a shard to write to unread, and none has answered yet  Write to it; it may be left for the next if throttled
    nothing read yet                                       Read the shards still unvisited, as many as the policy says
    the read showed room, and the policy has races left    Write to the roomiest of those not written to yet
    anything else                                          Stop

    the caller                       writes to unread   reads                            writes after the read
    -------------------------------  -----------------  -------------------------------  -----------------------
    a newcomer with time left        its first shard    the shard longest unseen         1
    a newcomer on its only pass      its first shard    all others                       as many as show room
    a waiting caller                 none               the shard longest unseen         1
    a waiting caller's last pass     none               those not seen full lately       1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from connection_governor.core.values import dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.lease import Leases, ShardKey

LOOKS = 1  # shards that a caller with time left reads in one pass
RACES = 1  # conditional writes that it may lose in one pass; by then the room it read about elsewhere is usually gone
THROTTLED = 4  # shards that a newcomer tries in turn while each is throttled, which costs nothing


@dataclass(frozen=True, slots=True)
class Write:
    """Try the grant on this shard, taking over the leases in `taken`.

    `may_leave`: try another shard if this one is throttled and nothing sent to it can have been applied.
    `slack_us`: see `rules.Write`.
    """

    key: ShardKey
    taken: Leases = ()
    may_leave: bool = False
    slack_us: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read these shards in one request, eventually consistent."""

    keys: tuple[ShardKey, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Refuse: this pass has seen what its policy allows."""


Move: TypeAlias = Write | Read | Stop


@dataclass(frozen=True, slots=True)
class Policy:
    """What one pass may do.

    Attributes:
        unread: shards to write to without reading, first to last, each only while those before it are throttled.
        readable: shards that the pass may read, first to last.
        reads: how many of them at most.
        races: how many writes it may lose after the read.
    """

    unread: tuple[ShardKey, ...]
    readable: tuple[ShardKey, ...]
    reads: int
    races: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The results of a pass so far.

    Attributes:
        throttled: how many unread shards it has left because they were throttled.
        refused: the unread shard that has answered and granted nothing.
        rooms: shards with room by the read, not yet written to, the roomiest first; None: nothing was read.
        lost: how many writes were lost after the read.
    """

    throttled: int = 0
    refused: ShardKey | None = None
    rooms: tuple[Write, ...] | None = None
    lost: int = 0

    def after_throttled(self) -> Seen:
        """Return the same after an unread shard was left."""
        return replace(self, throttled=self.throttled + 1)

    def after_read(self, rooms: Sequence[Write]) -> Seen:
        """Return the same after a read, with the writes worth trying."""
        return replace(self, rooms=tuple(rooms))

    def after_lost(self, write: Write) -> Seen:
        """Return the same after a write that was answered and granted nothing."""
        if self.rooms is None:
            return replace(self, refused=write.key)
        return replace(self, rooms=self.rooms[1:], lost=self.lost + 1)


NOTHING_SEEN = Seen()


def newcomer(order: Sequence[ShardKey], longest_unseen: Sequence[ShardKey], *, comes_again: bool) -> Policy:
    """Return the policy of a caller that was not refused before: `order` is that of its lease id."""
    unread = tuple(order[:THROTTLED])
    if comes_again:
        return Policy(unread, tuple(longest_unseen), reads=LOOKS, races=RACES)
    return Policy(unread, tuple(order), reads=len(order), races=len(order))


def waiting(keys: Sequence[ShardKey], *, comes_again: bool) -> Policy:
    """Return the policy of a caller that was refused before: `keys` are the shards to read."""
    return Policy((), tuple(keys), reads=LOOKS if comes_again else len(keys), races=RACES)


def first_write(unread: Sequence[ShardKey]) -> Write:
    """Return the write to the first of these shards: a newcomer's first move, whatever its policy."""
    return Write(unread[0], may_leave=len(unread) > 1)


def next_move(seen: Seen, policy: Policy) -> Move:
    """Return what to do next; see the table."""
    unread = policy.unread[seen.throttled :]
    if unread and seen.refused is None and seen.rooms is None:
        return first_write(unread)
    if seen.rooms is None:
        keys = tuple(key for key in policy.readable if key != seen.refused)[: policy.reads]
        return Read(keys) if keys else Stop()
    if seen.rooms and seen.lost < policy.races:
        return seen.rooms[0]
    return Stop()
