"""Every rule of the governor. Pure: no clock, network or randomness, and nothing else may decide.

Assumed: any two clocks that write leases differ by at most `skew_ms`. Beyond it nothing is guaranteed: a lease may be
taken over from a holder whose clock is too far behind, and only its session's time-outs remain.

    a grant was refused, or a read came first:
    the shard shows                             what to do
    ------------------------------------------  ------------------------------------------------
    no item                                     NoSuchShard
    our id with our whole record                AlreadyGranted (an earlier try's answer was lost)
    our id, a different expiry, where the
    caller gave a duration and its retry
    computed a new one                          AlreadyGranted, while that expiry lies ahead
    our id with another record                  IdInUse
    room, or room without the expired leases    Write(taken): the same write again, with what it frees
    more expired leases than a write can free   Reclaim(taken): free these, and write again
    none of these                               Full
    Write, where the opening rate is limited    as `opening` says: Write, TooFast or OtherPlan

    a renew was not written, the shard shows    what it means
    ------------------------------------------  ------------------------------------------------
    our id, all else alike, expiring as late    AlreadyRenewed (an earlier try's answer was lost)
    our id with our whole record                Full: a lowered budget is overdrawn
    our id, all else alike, expiring later than
    ours and before the wanted expiry           RenewFrom(record): an earlier renew's answer was lost
      where the caller gave a duration          AlreadyRenewed: its retry computed a new expiry
    anything else, also an expired lease        NotHeld

    a release was not written, the shard shows  what to do
    ------------------------------------------  ------------------------------------------------
    our id, all else alike, expiring later      release that record: a renew had moved its expiry
    anything else                               nothing: it is no longer held
"""

from __future__ import annotations

from binascii import crc32
from typing import TYPE_CHECKING, TypeAlias

from connection_governor.core.lease import record_connections, record_expiry_ms, record_tag
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connection_governor.core.lease import Counter, Leases, Settings, Shard

LEASES_PER_SHARD = 36  # leases that fit into 1 KB, which is one write unit
MOST_PER_SHARD = 1_000  # connections: an explicit number of shards may not be smaller
TAKEN_AT_ONCE = 40  # bounds the length of one update expression
PRESSURE_SHARE = 4  # pressure: less than a quarter of the shard is left, so that kept idle connections leave room
WAIT_REMEMBERED_MS = 600_000  # pressure: a caller had to wait so recently
REQUEST_MS = 6  # the usual time of a request to the store
RETRY_FLOOR_MS = 20
RETRY_CEILING_MS = 2_000


@dataclass(frozen=True, slots=True)
class AlreadyGranted:
    """An earlier try of this acquire was applied; its answer was lost, and with it the fence."""


@dataclass(frozen=True, slots=True)
class Write:
    """Try the grant, taking over the leases in `taken` (none: there is room).

    `slack_us`: with a limited opening rate, by how much to leave a full bucket short of that; None: it is not full.
    """

    taken: Leases
    slack_us: int | None = None


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A lowered budget needs more than one write can free: reclaim the leases in `taken` first, then read again."""

    taken: Leases


@dataclass(frozen=True, slots=True)
class Full:
    """Neither room nor an expired lease."""


@dataclass(frozen=True, slots=True)
class IdInUse:
    """The id is stored with another record: ids are never used twice."""


@dataclass(frozen=True, slots=True)
class AlreadyRenewed:
    """The lease is stored and expires at least as late as wanted: at `expires_at_ms`."""

    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class RenewFrom:
    """An earlier renew of this lease was applied: renew again, from the record that it stored."""

    record: str


@dataclass(frozen=True, slots=True)
class NotHeld:
    """The lease is not stored as the holder knows it."""


@dataclass(frozen=True, slots=True)
class NoSuchShard:
    """The shard's item is missing."""


@dataclass(frozen=True, slots=True)
class TooFast:
    """No token is due in time: the next one is due in `wait_ms`."""

    wait_ms: int


@dataclass(frozen=True, slots=True)
class OtherPlan:
    """The shard has another pace than the settings known here: theirs are old, or the shard has yet to get theirs."""

    is_newer: bool


NextStep: TypeAlias = AlreadyGranted | Write | Reclaim | Full | IdInUse | NoSuchShard | TooFast | OtherPlan


def shards_for(budget: int) -> int:
    """Return the shard count of a budget: one up to 36 connections, then as few as keep each within 1 KB."""
    return max(1, -(-budget // LEASES_PER_SHARD))


def shard_bounds(budget: int) -> tuple[int, int]:
    """Return the fewest and the most shards that a budget may be split into.

    Too few make items that are slow and expensive: a shard of 1,000 leases has some 40 KB of an item's 400 KB, and each
    write of it costs 40 units. More shards than connections would leave shards that grant nothing.
    """
    return max(1, -(-budget // MOST_PER_SHARD)), max(1, budget)


def share(budget: int, shards: int, index: int) -> int:
    """Return a shard's part of the budget: parts differ by at most one; an index past the last gets nothing."""
    if index >= shards:
        return 0
    each, rest = divmod(budget, shards)
    return each + (index < rest)


def shard_order(lease_id: str, shards: int) -> Iterator[int]:
    """Return the order in which an acquire tries the shards: fixed by its id, so a retry starts at the same shard."""
    first = crc32(lease_id.encode()) if shards > 1 else 0
    return ((first + step) % shards for step in range(shards))


def is_reclaimable(record: str, *, now_ms: int, skew_ms: int) -> bool:
    """Return whether the lease may be reclaimed: its expiry, plus the allowance for clocks, has passed."""
    return record_expiry_ms(record) + skew_ms < now_ms


def reclaimable(shard: Shard, *, now_ms: int, skew_ms: int) -> list[Leases]:
    """Return the expired leases, exactly as stored, in portions that one write may name."""
    over = tuple(seen for seen in shard.leases.items() if is_reclaimable(seen[1], now_ms=now_ms, skew_ms=skew_ms))
    return [over[start : start + TAKEN_AT_ONCE] for start in range(0, len(over), TAKEN_AT_ONCE)]


def connections_of(leases: Leases) -> int:
    """Return how many connections these stored leases hold: from their records, never from a request."""
    return sum(record_connections(record) for _, record in leases)


def next_step(
    shard: Shard | None, lease_id: str, record: str, *, now_ms: int, skew_ms: int, any_end: bool = False
) -> NextStep:
    """Return the next step of an acquire, from the shard that a refused grant's answer, or a read, has shown."""
    if shard is None:
        return NoSuchShard()
    stored = shard.leases.get(lease_id)
    if stored is not None:
        if any_end and _differ_in_end_only(stored, record) and record_expiry_ms(stored) > now_ms:
            return AlreadyGranted()
        return AlreadyGranted() if stored == record else IdInUse()
    return room_for(shard, record_connections(record), now_ms=now_ms, skew_ms=skew_ms)


def removed(taken: Leases, shard: Shard) -> Leases:
    """Return those of the leases to take over that are gone: the shard no longer stores them, and ids are used once."""
    return tuple(lease for lease in taken if lease[0] not in shard.leases)


def room_for(shard: Shard, connections: int, *, now_ms: int, skew_ms: int) -> Write | Reclaim | Full:
    """Return whether a shard, as read, has room for so many connections, and which leases it must free for them."""
    if shard.remaining >= connections:
        return Write(())
    portions = reclaimable(shard, now_ms=now_ms, skew_ms=skew_ms)
    if portions and shard.remaining + connections_of(portions[0]) >= connections:
        return Write(portions[0])
    return Reclaim(portions[0]) if len(portions) > 1 else Full()


def after_refused_renew(
    shard: Shard | None, lease_id: str, record: str, wanted: str, *, now_ms: int, any_end: bool = False
) -> AlreadyRenewed | RenewFrom | Full | NotHeld:
    """Return the meaning of a renew from `record` to `wanted` that was not written, from the shard in its answer.

    `wanted` differs from the lease's other records only in the expiry, so the rest must match exactly. Only the
    holder's own renews move the expiry, so a later one is the holder's, whether or not it knows.

    With `any_end` the caller gave a duration, so a repeated request asks for a later expiry than the first. The stored
    expiry counts, and repeating the request does nothing more.
    """
    stored = shard.leases.get(lease_id) if shard else None
    if stored is None or record_expiry_ms(stored) < now_ms:
        return NotHeld()
    same = _differ_in_end_only(stored, wanted)
    if same and record_expiry_ms(stored) >= record_expiry_ms(wanted):
        return AlreadyRenewed(record_expiry_ms(stored))
    if stored == record:
        return Full()
    if not same or record_expiry_ms(stored) < record_expiry_ms(record):
        return NotHeld()
    return AlreadyRenewed(record_expiry_ms(stored)) if any_end else RenewFrom(stored)


def renewed_since(shard: Shard | None, lease_id: str, record: str) -> str | None:
    """Return the lease's stored record, if a renew has moved its expiry since `record`; None if there is none.

    Its holder may not know of the renew (the answer was lost), or may use the older value. Ids are never used twice, so
    it is the same lease.
    """
    stored = shard.leases.get(lease_id) if shard else None
    if stored is None or record_expiry_ms(stored) <= record_expiry_ms(record):
        return None
    same = _differ_in_end_only(stored, record)
    return stored if same else None


def _differ_in_end_only(one: str, other: str) -> bool:
    return record_connections(one) == record_connections(other) and record_tag(one) == record_tag(other)


def will_last(shard: Shard, *, turnover_per_s: float) -> bool:
    """Return whether the room that a read showed is likely to last until a write arrives.

    If connections change hands fast, other callers have used a little room by then, and a lost write costs as much as a
    grant. Only for callers with time left: at the end of a wait, any room is worth a write.
    """
    return shard.remaining * 1_000 >= turnover_per_s * REQUEST_MS


def is_pressed(counter: Counter, *, now_ms: int) -> bool:
    """Return whether environments should release what they could keep: the budget runs low, or ran out lately.

    A frozen environment cannot learn that others need what it keeps, so keeping never fills some of the room. A
    momentary gap means little if environments take turns, so a recent wait counts as pressure for ten minutes.
    """
    has_waited = counter.waited_ms > 0 and abs(now_ms - counter.waited_ms) < WAIT_REMEMBERED_MS
    return has_waited or counter.remaining * PRESSURE_SHARE < counter.allowed


def totals(settings: Settings, allowed: int, in_use: int) -> tuple[int, int, bool]:
    """Return a database's (allowed, in use, whether estimated), from the shards seen."""
    if settings.shards == 1:
        return allowed, in_use, False
    return settings.allowed, scale(in_use, share_of=allowed, total=settings.allowed), True


def scale(part: int, *, share_of: int, total: int) -> int:
    """Estimate a database's figure from one shard's: `part` of `share_of`, scaled to `total`."""
    return round(part * total / share_of) if share_of else 0


def retry_after_ms(seen: Sequence[Shard], *, now_ms: int, skew_ms: int, turnover_per_s: float) -> int:
    """Return an estimate of when a try may succeed: the next release at the observed turnover, or the next expiry."""
    by_release = 1_000 / turnover_per_s if turnover_per_s > 0 else RETRY_CEILING_MS
    ends = [record_expiry_ms(record) + skew_ms - now_ms for shard in seen for record in shard.leases.values()]
    by_expiry = min(ends, default=RETRY_CEILING_MS)
    return int(min(max(min(by_release, by_expiry), RETRY_FLOOR_MS), RETRY_CEILING_MS))


def retry_too_fast_ms(waits_ms: Sequence[int], spread: float) -> int:
    """Return when a caller that was refused for the opening rate may try again.

    A token is due after the shortest of these waits. All that were refused at once know the same, so each adds a part
    of its own, `spread` in [0, 1), of as long again.
    """
    wait_ms = max(min(waits_ms), RETRY_FLOOR_MS)
    return wait_ms + int(wait_ms * spread)


def open_in_ms(opens_us: int | None, *, now_ms: int) -> int:
    """Return how long a caller that was granted a lease has to wait for its token, in milliseconds."""
    return 0 if opens_us is None else max(0, -(-opens_us // 1_000) - now_ms)
