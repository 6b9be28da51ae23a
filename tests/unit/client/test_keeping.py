"""What an environment keeps and notes, in virtual time: sessions, pressure, and the lease file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from connection_governor import Fence, Governor, NoConnectionsLeft
from connection_governor.client.lease_file import UNKNOWN_SHARD, LeaseFile, Note
from connection_governor.client.ports import Dependencies
from connection_governor.core.engine import Engine
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from tests.support.calm_sessions import CalmOpener, CalmSession
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

    from connection_governor.mysql.opener import Opener

FENCE = Fence()
KEEP_SECONDS = 60
BUDGET = 8


class Noted:
    """Leases in memory, behind a transport that reads the lease file whenever it is called."""

    def __init__(self, folder: Path, clock: VirtualClock) -> None:
        store, self.entropy = MemoryStore(), SetEntropy()
        operations = Operations(store, clock, self.entropy)
        operations.set_budget("orders", BUDGET, shards=1)
        quiet = Reporter(write=lambda _line: None)
        self._service = Service(Engine(store, clock, self.entropy), lambda: operations, quiet, clock)
        self._folder = folder
        self.seen: dict[str, list[Note]] = {}

    def notes(self) -> list[Note]:
        """Return what is in the lease files now."""
        lines = [line for path in self._folder.iterdir() for line in path.read_bytes().splitlines(keepends=True)]
        return [note for line in lines if (note := Note.of(line)) is not None]

    def held(self) -> int:
        """Return how many leases are stored."""
        return len(self._service.status("orders")["leases"])

    def __getattr__(self, verb: str) -> Any:  # noqa: ANN401 - any verb of a transport
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as above
            self.seen[verb] = self.notes()
            return getattr(self._service, verb)(*arguments, **options)

        return call


@pytest.fixture
def clock() -> VirtualClock:
    """Return a clock that the test moves."""
    return VirtualClock()


@pytest.fixture
def transport(tmp_path: Path, clock: VirtualClock) -> Noted:
    """Return the way to the leases."""
    return Noted(tmp_path, clock)


@pytest.fixture
def governor(tmp_path: Path, clock: VirtualClock, transport: Noted) -> Governor:
    """Return a governor that keeps its session for a minute."""
    opener = cast("Opener", CalmOpener(clock))
    quiet = Reporter(write=lambda _line: None)
    notes = LeaseFile(str(tmp_path), clock)
    dependencies = Dependencies(clock, transport.entropy, quiet, make_opener=lambda: opener, lease_file=notes)
    return Governor(
        cast("Any", transport),
        dependencies,
        holder="shop/test",
        database="orders",
        fence=FENCE,
        keep_seconds=KEEP_SECONDS,
    )


def used(governor: Governor, lease_ms: int = 30_000) -> CalmSession:
    """Use a connection for one body."""
    with governor.connection(lease_ms=lease_ms) as connection:
        return cast("CalmSession", connection)


def test_a_lease_is_in_the_file_before_the_request_is_sent(governor: Governor, transport: Noted) -> None:
    """A crash between the grant and its answer leaves a slot behind."""
    governor.acquire()
    (note,) = transport.seen["acquire"]
    assert note.lease.shard == UNKNOWN_SHARD


def test_the_file_has_the_lease_as_it_was_renewed(governor: Governor, transport: Noted, clock: VirtualClock) -> None:
    """The extension compares the whole record: with the old expiry it releases nothing."""
    lease = governor.acquire(lease_ms=30_000)
    clock.advance(10_000)
    renewed = governor.renew(lease, lease_ms=30_000)
    assert renewed.record != lease.record
    assert [note.lease.record for note in transport.notes()] == [renewed.record]


def test_without_a_context_a_kept_session_stops_early(governor: Governor, clock: VirtualClock) -> None:
    """A container that is frozen in a statement goes on with it after its lease."""
    first = used(governor)
    clock.advance(1_000)
    with governor.connection(lease_ms=30_000) as again:
        assert cast("CalmSession", again) is first
        assert again.lease is not None
        assert again.usable_until_ms == again.lease.expires_at_ms - again.fence.required_margin_ms(may_freeze=True)


def test_a_kept_session_is_no_session_of_a_forked_child(
    governor: Governor, transport: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes share one session and one lease."""
    first = used(governor)
    log, held = list(first.log), transport.held()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert used(governor) is not first
    assert [act for act in first.log if act != "close"] == log
    assert transport.held() == held + 1


def test_a_refusal_is_pressure_for_a_minute_and_no_longer(
    governor: Governor, transport: Noted, clock: VirtualClock
) -> None:
    """The last connections are hoarded; or an environment never keeps a connection again."""
    leases = [governor.acquire() for _ in range(BUDGET)]
    governor.lease_client._pressed.clear()  # what the last grants said is another test's
    with pytest.raises(NoConnectionsLeft):
        governor.acquire()
    assert governor.lease_client.is_pressed("orders")
    for lease in leases:
        governor.release(lease)
    used(governor)
    assert transport.held() == 0, "kept under pressure"
    clock.advance(700_000)  # the shard's own mark has aged, too
    assert not governor.lease_client.is_pressed("orders")
    assert used(governor) is used(governor)
    assert transport.held() == 1
