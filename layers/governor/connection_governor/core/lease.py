"""The vocabulary: lease, shard, settings, grant and refusal. Frozen values, no rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from connection_governor.core.values import dataclass, field, replace

if TYPE_CHECKING:
    from collections.abc import Mapping

TAG_BYTES = 7  # with 36 leases, a database name of 32 bytes and counters that have grown for years: just below 1 KB
MAX_RECORD_CONNECTIONS = 64**2 - 1

_DIGITS = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # in ASCII order: records sort by expiry
_VALUE = {digit: value for value, digit in enumerate(_DIGITS)}
_EXPIRY_WIDTH = 7  # 64**7 ms reach the year 2109
_CONNECTIONS_WIDTH = 2
_TAG_AT = _EXPIRY_WIDTH + _CONNECTIONS_WIDTH
NAME_CHARACTERS = frozenset(_DIGITS)  # of database names and lease ids, and of tags

Leases = tuple[tuple[str, str], ...]
"""Stored leases as they were seen: (lease id, record) pairs."""


@dataclass(frozen=True, slots=True)
class ShardKey:
    """Which of a database's shards."""

    database: str
    index: int


class Counter(Protocol):
    """A shard's counter, as a write or a read shows it."""

    @property
    def allowed(self) -> int:
        """The shard's part of the budget."""

    @property
    def remaining(self) -> int:
        """The connections of it that are not in use; below zero if a lowered budget is overdrawn."""

    @property
    def waited_ms(self) -> int:
        """When a caller that was refused before last got a lease here; 0: never."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to hold `connections` connections of `database` until `expires_at_ms`.

    Attributes:
        lease_id: 8 to 16 characters of `[A-Za-z0-9_-]`, never used twice.
        database: name of the governed database.
        holder: the holder's name, up to 64 characters; its first 7 are stored with the lease.
        connections: how many connections it allows, usually 1.
        fence: grows with each grant of this shard; None if a lost answer hid it.
        expires_at_ms: expiry of the lease, milliseconds since 1970 UTC.
        shard: index of the shard that granted it.
        taken_over: the names of the sessions of expired leases that this grant is known to have removed: a session
            of theirs that lives on may be ended, since no lease covers it any more.
    """

    lease_id: str
    database: str
    holder: str
    connections: int
    fence: int | None
    expires_at_ms: int
    shard: int
    taken_over: tuple[str, ...] = ()

    @property
    def key(self) -> ShardKey:
        """The shard that granted it."""
        return ShardKey(self.database, self.shard)

    @property
    def session_name(self) -> str:
        """The `program_name` that ties a MySQL session to it: `governor:<lease id>:<database>#<shard>`."""
        return session_name(self.lease_id, self.key)

    @property
    def record(self) -> str:
        """The string stored for it: release and renew compare the whole of it."""
        return pack_record(self.expires_at_ms, self.connections, holder_tag(self.holder))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lease asked for: made before the first try, and repeated exactly by its retries.

    `any_end`: the caller names a length, so a retry computes a later expiry than the first try.
    `wait_ms`: with a limited opening rate, how long the caller is ready to wait before it opens: see `opening`.
    """

    database: str
    lease_id: str
    holder: str
    connections: int
    expires_at_ms: int
    any_end: bool = False
    wait_ms: int = 0

    @property
    def record(self) -> str:
        """The string to store."""
        return pack_record(self.expires_at_ms, self.connections, holder_tag(self.holder))

    def granted_by(self, key: ShardKey, fence: int | None) -> Lease:
        """Return the lease, once a shard has granted it."""
        return Lease(self.lease_id, self.database, self.holder, self.connections, fence, self.expires_at_ms, key.index)


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease with the totals of its database; `estimated` if they were scaled from one of several shards.

    `expired`: how many expired leases were taken over or reclaimed for it.
    `open_in_ms`: how long the holder has to wait before it opens: see `opening`; 0 unless it said that it is ready to.
    """

    lease: Lease
    allowed: int
    in_use: int
    remaining: int
    estimated: bool
    pressure: bool
    expired: int = 0
    open_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """No connection is left. An expected answer, so a value; `retry_after_ms` estimates when a try may succeed.

    `too_fast`: connections are left, but too many were opened lately for the database's opening rate.
    """

    retry_after_ms: int
    allowed: int
    in_use: int
    remaining: int
    estimated: bool = True
    too_fast: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """A database's settings item, the only home of the shard count.

    Attributes:
        database: its name.
        allowed: the budget, in connections.
        shards: among how many shards the budget is split.
        plan: number of the last budget change; grows by one with each.
        lease_ms: length of a lease if the caller names none.
        skew_ms: how far any two clocks that write leases may differ.
        anonymous_lease_ms: length of a lease acquired by the published sample's payload.
        shards_made: how many shard items ever existed; they are never deleted.
        opens_per_second: how many connections may be granted in a second; 0: as many as are left.
        open_burst: how many more may be granted at once.
        rate_plan: number of the last budget change that changed the pace of a shard: see `opening`.
    """

    database: str
    allowed: int
    shards: int
    plan: int
    lease_ms: int = 30_000
    skew_ms: int = 1_000
    anonymous_lease_ms: int = 900_000
    shards_made: int = 1
    opens_per_second: int = 0
    open_burst: int = 0
    rate_plan: int = 0

    @property
    def keys(self) -> tuple[ShardKey, ...]:
        """Every shard item that may hold leases, also those that a smaller budget no longer grants from."""
        return tuple(ShardKey(self.database, index) for index in range(self.shards_made))


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as it was read: the counter and the leases live in one item and change in one write.

    `waited_ms`: when a caller that was refused before last got a lease here; 0: never.
    `opens_us`: when the token of its last grant was due; None: its opening rate is not limited.
    """

    key: ShardKey
    allowed: int
    remaining: int
    fence: int
    plan: int
    leases: Mapping[str, str] = field(default_factory=dict)
    waited_ms: int = 0
    opens_us: int | None = None

    @property
    def in_use(self) -> int:
        """Connections that its leases hold."""
        return self.allowed - self.remaining

    def without(self, leases: Leases, *, remaining: int) -> Shard:
        """Return the shard without these leases, and with `remaining` as its counter."""
        gone = {lease_id for lease_id, _ in leases}
        kept = {lease_id: record for lease_id, record in self.leases.items() if lease_id not in gone}
        return replace(self, remaining=remaining, leases=kept)


def session_name(lease_id: str, key: ShardKey) -> str:
    """Return the name of the sessions of a lease, see `Lease.session_name`."""
    return f"governor:{lease_id}:{key.database}#{key.index}"


def pack_record(expires_at_ms: int, connections: int, tag: str) -> str:
    """Return the stored form of a lease: expiry (7 digits, base 64), connections (2 digits), tag (up to 7 bytes)."""
    return _digits(expires_at_ms, _EXPIRY_WIDTH) + _digits(connections, _CONNECTIONS_WIDTH) + tag


def record_expiry_ms(record: str) -> int:
    """Return the stored lease's expiry, milliseconds since 1970 UTC."""
    return _number(record[:_EXPIRY_WIDTH])


def record_connections(record: str) -> int:
    """Return how many connections the stored lease holds."""
    return _number(record[_EXPIRY_WIDTH:_TAG_AT])


def record_tag(record: str) -> str:
    """Return the tag of the holder that the stored lease carries."""
    return record[_TAG_AT:]


def stored_lease(key: ShardKey, lease_id: str, record: str) -> Lease:
    """Return the lease of a shard's entry; of its holder only the tag is stored, and no fence."""
    return Lease(
        lease_id=lease_id,
        database=key.database,
        holder=record_tag(record),
        connections=record_connections(record),
        fence=None,
        expires_at_ms=record_expiry_ms(record),
        shard=key.index,
    )


def holder_tag(holder: str) -> str:
    """Return at most 7 bytes that name the holder's function: the part before its first `/`, odd characters as `_`.

    Only a holder without a name (the published sample's payload) has an empty tag.
    """
    name = holder.partition("/")[0] or holder
    tag = name[:TAG_BYTES]
    return tag if NAME_CHARACTERS.issuperset(tag) else "".join(c if c in NAME_CHARACTERS else "_" for c in tag)


def _digits(number: int, width: int) -> str:
    return "".join([_DIGITS[number >> shift & 63] for shift in range(6 * width - 6, -1, -6)])


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * 64 + _VALUE[digit]
    return number


@dataclass(frozen=True, slots=True)
class Renewal:
    """A renewed lease, and whether its budget runs low."""

    lease: Lease
    pressure: bool
