"""The limits of every public value: bad input raises `InvalidRequest` with the field's name, before any write."""

from __future__ import annotations

from typing import TypeGuard

from connection_governor.core.lease import MAX_RECORD_CONNECTIONS, NAME_CHARACTERS
from connection_governor.errors import InvalidRequest

MIN_LEASE_MS = 1_000
MAX_LEASE_MS = 3_600_000
MAX_BUDGET = 100_000
MAX_SHARDS = 4_096
MAX_SKEW_MS = 60_000
MAX_OPENS_PER_SECOND = 10_000
MAX_OPEN_BURST = 1_000_000
HOLDER_LENGTH = 64  # of a holder's name, at most
MAX_END_MS = 64**7 - 1  # the most that a record's seven digits hold: the year 2109


def database_name(name: object) -> str:
    """Return a database's name: 1 to 32 of `[A-Za-z0-9_-]`."""
    if not _is_name(name, least=1, most=32):
        raise InvalidRequest("database", "must be 1 to 32 characters of A-Z, a-z, 0-9, '_' and '-'")
    return name


def lease_id(value: object) -> str:
    """Return a lease id: 8 to 16 of `[A-Za-z0-9_-]`."""
    if not _is_name(value, least=8, most=16):
        raise InvalidRequest("lease_id", "must be 8 to 16 characters of A-Z, a-z, 0-9, '_' and '-'")
    return value


def holder_name(name: object) -> str:
    """Return a holder's name: 1 to 64 printable characters."""
    if not isinstance(name, str) or not 1 <= len(name) <= HOLDER_LENGTH or not name.isprintable():
        raise InvalidRequest("holder", f"must be 1 to {HOLDER_LENGTH} printable characters")
    return name


def connection_count(count: object, *, most: int = MAX_RECORD_CONNECTIONS) -> int:
    """Return a number of connections, from 1 to `most`."""
    return whole_number("connections", count, least=1, most=most)


def lease_length_ms(length: object) -> int:
    """Return a lease's length in milliseconds, from a second to an hour."""
    return whole_number("lease_ms", length, least=MIN_LEASE_MS, most=MAX_LEASE_MS)


def timeout_ms(seconds: object) -> int:
    """Return a time-out in seconds, 0 (one try) or more, as milliseconds."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds <= MAX_LEASE_MS:
        raise InvalidRequest("timeout", "must be a number of seconds, 0 or more")
    return round(seconds * 1_000)


def whole_number(field: str, number: object, *, least: int, most: int) -> int:
    """Return a whole number (not a bool, not a float) within these bounds."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidRequest(field, "must be a whole number")
    if not least <= number <= most:
        raise InvalidRequest(field, f"must be from {least} to {most}")
    return number


def _is_name(value: object, *, least: int, most: int) -> TypeGuard[str]:
    return isinstance(value, str) and least <= len(value) <= most and NAME_CHARACTERS.issuperset(value)
