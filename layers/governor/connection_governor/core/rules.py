"""Every rule of the governor. Pure: no clock, network or randomness, and nothing else may decide.

Assumed: any two clocks that write leases differ by at most `skew_ms`. Not guaranteed beyond it: a lease may then be
taken over from a holder whose clock is too far behind (its session's time-outs are what is left).

    a grant was refused, or a look came first:
    the shard shows                             what to do
    ------------------------------------------  ------------------------------------------------
    no item                                     NoSuchShard
    our id with our whole record                AlreadyGranted (an earlier try's answer was lost)
    our id, another end, for a caller who
    names none and so cannot repeat it          AlreadyGranted, while that end lies ahead
    our id with another record                  IdInUse
    room, or room once what expired is freed    Write(taken): the same write again, with what it frees
    more that expired than one write can free   GiveBack(taken): free these, and write again
    none of these                               Full

    a renew was not written, the shard shows    what it means
    ------------------------------------------  ------------------------------------------------
    our id, all else alike, ending as late      AlreadyRenewed (an earlier try's answer was lost)
    our id with our whole record                Full: a lowered budget is overdrawn
    our id, all else alike, ending later than
    ours and before what is asked for           RenewFrom(record): an earlier renew's answer was lost
      where the caller gave a length            AlreadyRenewed: its retry computed a new end
    anything else, also a lease past its end    NotHeld

    a release was not written, the shard shows  what to do
    ------------------------------------------  ------------------------------------------------
    our id, all else alike, ending later        release that record: a renew had moved its end
    anything else                               nothing: it is not held any more
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeAlias

from connection_governor.core.lease import record_connections, record_expiry_ms, record_tag
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connection_governor.core.lease import Counter, Leases, Settings, Shard

LEASES_PER_SHARD = 36  # so many fit into 1 KB, which is one write unit
MOST_PER_SHARD = 1_000  # connections: an explicit number of shards may not be smaller
TAKEN_AT_ONCE = 40  # bounds the length of one update expression
PRESSURE_SHARE = 4  # pressure: less than a quarter of the shard is left, so that what is kept idle leaves room
WAIT_REMEMBERED_MS = 600_000  # pressure: somebody had to wait so recently
REQUEST_MS = 6  # what a request to the store takes, at most times
RETRY_FLOOR_MS = 20
RETRY_CEILING_MS = 2_000


@dataclass(frozen=True, slots=True)
class AlreadyGranted:
    """An earlier try of this very acquire was applied; its answer was lost, and with it the fence."""


@dataclass(frozen=True, slots=True)
class Write:
    """Try the grant, taking over the leases in `taken` (none: there is room)."""

    taken: Leases


@dataclass(frozen=True, slots=True)
class GiveBack:
    """A lowered budget is owed more than one write can free: give back what is in `taken` first, then look again."""

    taken: Leases


@dataclass(frozen=True, slots=True)
class Full:
    """Neither room nor an expired lease."""


@dataclass(frozen=True, slots=True)
class IdInUse:
    """The id is stored with another record: ids are never used twice."""


@dataclass(frozen=True, slots=True)
class AlreadyRenewed:
    """The lease is stored and ends at least as late as wanted: at `expires_at_ms`."""

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


NextStep: TypeAlias = AlreadyGranted | Write | GiveBack | Full | IdInUse | NoSuchShard


def shards_for(budget: int) -> int:
    """How many shards a budget is split among: one up to 36 connections, then as few as keep each within 1 KB."""
    return max(1, -(-budget // LEASES_PER_SHARD))


def shard_bounds(budget: int) -> tuple[int, int]:
    """Return among how few and how many shards a budget may be split.

    Too few make items that are slow and dear: a shard of 1,000 leases has some 40 KB of the 400 KB that an item may
    have, and each write of it costs 40 units. More shards than connections would leave shards that lend nothing.
    """
    return max(1, -(-budget // MOST_PER_SHARD)), max(1, budget)


def share(budget: int, shards: int, index: int) -> int:
    """The part of the budget that a shard gets: parts differ by at most one; an index past the last gets nothing."""
    if index >= shards:
        return 0
    each, rest = divmod(budget, shards)
    return each + (index < rest)


def shard_order(lease_id: str, shards: int) -> Iterator[int]:
    """In which order an acquire tries the shards: fixed by its id, so that a retry starts where the first try did."""
    first = zlib.crc32(lease_id.encode()) if shards > 1 else 0
    return ((first + step) % shards for step in range(shards))


def is_over(record: str, *, now_ms: int, skew_ms: int) -> bool:
    """Whether anyone may reclaim the lease: its end, plus the allowance for clocks, has passed."""
    return record_expiry_ms(record) + skew_ms < now_ms


def reclaimable(shard: Shard, *, now_ms: int, skew_ms: int) -> list[Leases]:
    """The leases that are over, exactly as stored, in portions that one write may name."""
    over = tuple(seen for seen in shard.leases.items() if is_over(seen[1], now_ms=now_ms, skew_ms=skew_ms))
    return [over[start : start + TAKEN_AT_ONCE] for start in range(0, len(over), TAKEN_AT_ONCE)]


def connections_of(leases: Leases) -> int:
    """How many connections these stored leases hold: from their records, never from a request."""
    return sum(record_connections(record) for _, record in leases)


def next_step(
    shard: Shard | None, lease_id: str, record: str, *, now_ms: int, skew_ms: int, any_end: bool = False
) -> NextStep:
    """What to do about an acquire, from the shard that a refused grant's answer, or a look, has shown."""
    if shard is None:
        return NoSuchShard()
    stored = shard.leases.get(lease_id)
    if stored is not None:
        if any_end and _differ_in_end_only(stored, record) and record_expiry_ms(stored) > now_ms:
            return AlreadyGranted()
        return AlreadyGranted() if stored == record else IdInUse()
    return room_for(shard, record_connections(record), now_ms=now_ms, skew_ms=skew_ms)


def room_for(shard: Shard, connections: int, *, now_ms: int, skew_ms: int) -> Write | GiveBack | Full:
    """Whether a shard, as it was read, has room for a lease of so many connections, and what it must free for it."""
    if shard.remaining >= connections:
        return Write(())
    portions = reclaimable(shard, now_ms=now_ms, skew_ms=skew_ms)
    if portions and shard.remaining + connections_of(portions[0]) >= connections:
        return Write(portions[0])
    return GiveBack(portions[0]) if len(portions) > 1 else Full()


def after_refused_renew(
    shard: Shard | None, lease_id: str, record: str, wanted: str, *, now_ms: int, any_end: bool = False
) -> AlreadyRenewed | RenewFrom | Full | NotHeld:
    """Return what a renew from `record` to `wanted` that was not written means, from the shard that the answer showed.

    `wanted` differs from the lease's other records only in the expiry, so the rest must match to the letter. Only the
    holder's own renews move the expiry, so a later one is the holder's, whether or not it knows.

    With `any_end` the caller gave a length, so that a repeated request asks for a later end than the first: the end
    that is stored counts, and repeating the request does nothing more.
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
    """The lease's stored record, where a renew has moved its end since `record`; None where there is no such lease.

    Its holder may not know of the renew (the answer was lost) or hold on to the older value; ids are never used twice,
    so it is the same lease.
    """
    stored = shard.leases.get(lease_id) if shard else None
    if stored is None or record_expiry_ms(stored) <= record_expiry_ms(record):
        return None
    same = _differ_in_end_only(stored, record)
    return stored if same else None


def _differ_in_end_only(one: str, other: str) -> bool:
    return record_connections(one) == record_connections(other) and record_tag(one) == record_tag(other)


def will_last(shard: Shard, *, turnover_per_s: float) -> bool:
    """Whether the room that a look showed is likely to be there still when a write arrives.

    Where connections change hands fast, others have taken a little room by then, and a lost write costs as much as a
    grant. Only for those who will come again: at the end of a wait, any room is worth a write.
    """
    return shard.remaining * 1_000 >= turnover_per_s * REQUEST_MS


def is_pressed(counter: Counter, *, now_ms: int) -> bool:
    """Whether environments should give back what they could keep: the budget runs low, or ran out a while ago.

    A frozen environment cannot hear that others need what it keeps, so some room is never filled by keeping. Room at
    one moment means little where environments take turns, so a recent wait counts as pressure for ten minutes.
    """
    has_waited = counter.waited_ms > 0 and now_ms - counter.waited_ms < WAIT_REMEMBERED_MS
    return has_waited or counter.remaining * PRESSURE_SHARE < counter.allowed


def totals(settings: Settings, allowed: int, in_use: int) -> tuple[int, int, bool]:
    """Return a database's (allowed, in use, whether estimated), from what was seen of its shards."""
    if settings.shards == 1:
        return allowed, in_use, False
    return settings.allowed, scale(in_use, share_of=allowed, total=settings.allowed), True


def scale(part: int, *, share_of: int, total: int) -> int:
    """Estimate a database's figure from one shard's: `part` of `share_of`, scaled to `total`."""
    return round(part * total / share_of) if share_of else 0


def retry_after_ms(seen: Sequence[Shard], *, now_ms: int, skew_ms: int, turnover_per_s: float) -> int:
    """An estimate of when a try may succeed: the next release at the observed turnover, or the next that is over."""
    by_release = 1_000 / turnover_per_s if turnover_per_s > 0 else RETRY_CEILING_MS
    ends = [record_expiry_ms(record) + skew_ms - now_ms for shard in seen for record in shard.leases.values()]
    by_expiry = min(ends, default=RETRY_CEILING_MS)
    return int(min(max(min(by_release, by_expiry), RETRY_FLOOR_MS), RETRY_CEILING_MS))
