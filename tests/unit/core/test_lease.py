"""The vocabulary: the stored form of a lease, and what names its holder."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.core.lease import (
    MAX_RECORD_CONNECTIONS,
    TAG_BYTES,
    Lease,
    Settings,
    Shard,
    ShardKey,
    Wanted,
    holder_tag,
    pack_record,
    record_connections,
    record_expiry_ms,
    record_tag,
    stored_lease,
)

ENDS = st.integers(0, 64**7 - 1)
COUNTS = st.integers(0, MAX_RECORD_CONNECTIONS)
TAGS = st.text("abcXYZ019_-", max_size=TAG_BYTES)


@given(end=ENDS, count=COUNTS, tag=TAGS)
def test_a_record_holds_what_was_packed(end: int, count: int, tag: str) -> None:
    """A lease read back with another end or number is taken over too early, or moves the counter."""
    record = pack_record(end, count, tag)
    assert (record_expiry_ms(record), record_connections(record), record_tag(record)) == (end, count, tag)
    assert len(record.encode()) == 9 + len(tag)


@given(first=ENDS, second=ENDS, count=COUNTS)
def test_records_sort_by_their_end(first: int, second: int, count: int) -> None:
    """A person who reads the table sees the oldest lease first."""
    assert (pack_record(first, count, "") < pack_record(second, count, "")) == (first < second)


@given(one=st.tuples(ENDS, COUNTS, TAGS), other=st.tuples(ENDS, COUNTS, TAGS))
def test_different_leases_have_different_records(one: tuple[int, int, str], other: tuple[int, int, str]) -> None:
    """Release and takeover compare the record: two that looked alike would be taken for each other."""
    assert (pack_record(*one) == pack_record(*other)) == (one == other)


def test_the_year_2109_can_be_written() -> None:
    """Seven digits must outlast every lease that this code will write."""
    end_ms = 64**7 - 1
    assert record_expiry_ms(pack_record(end_ms, 1, "")) == end_ms
    assert end_ms / 1_000 / 31_557_600 + 1_970 > 2_109


@pytest.mark.parametrize(
    ("holder", "tag"),
    [
        ("checkout/2f1c", "checkou"),
        ("pay/2f1c", "pay"),
        ("pay", "pay"),
        ("a b.c/1", "a_b_c"),
        ("größe/1", "gr__e"),
        ("/abc", "_abc"),
        ("/", "_"),
        ("日本/1", "__"),
        ("", ""),
    ],
)
def test_a_tag_names_the_function_in_a_few_plain_bytes(holder: str, tag: str) -> None:
    """An operator who reads the table at night wants to know which function holds the connections."""
    assert holder_tag(holder) == tag


@given(holder=st.text(min_size=1))
def test_only_a_holder_without_a_name_has_no_tag(holder: str) -> None:
    """An empty tag marks the published sample's anonymous leases."""
    assert 1 <= len(holder_tag(holder).encode()) <= TAG_BYTES


def test_a_lease_granted_is_the_lease_wanted() -> None:
    """Its record must equal the stored one exactly, or its holder can never release it."""
    wanted = Wanted("orders", "lease-01", "checkout/2f1c", 2, 1_800_000_000_000)
    lease = wanted.granted_by(ShardKey("orders", 3), 7)
    assert lease.record == wanted.record
    assert lease.key == ShardKey("orders", 3)
    assert lease == Lease("lease-01", "orders", "checkout/2f1c", 2, 7, 1_800_000_000_000, 3)


def test_a_stored_lease_read_back_has_the_same_record() -> None:
    """The janitor and the sample's `false` release what they read: it must equal what is stored."""
    lease = Lease("lease-01", "orders", "checkout/2f1c", 2, 7, 1_800_000_000_000, 3)
    read = stored_lease(lease.key, lease.lease_id, lease.record)
    assert read.record == lease.record
    assert (read.holder, read.connections, read.expires_at_ms, read.shard) == ("checkou", 2, lease.expires_at_ms, 3)


def test_settings_name_every_shard_that_ever_was() -> None:
    """After a lowered budget, leases in a shard that is no longer used would never be reclaimed."""
    settings = Settings("orders", 3, shards=1, plan=4, shards_made=3)
    assert settings.keys == (ShardKey("orders", 0), ShardKey("orders", 1), ShardKey("orders", 2))


def test_values_cannot_be_changed() -> None:
    """A lease that is changed in passing can no longer be released."""
    lease = Lease("lease-01", "orders", "checkout", 1, None, 0, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        lease.connections = 2  # type: ignore[misc]
    assert Shard(ShardKey("orders", 0), allowed=5, remaining=-2, fence=0, plan=1).in_use == 7
