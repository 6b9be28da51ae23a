"""The extension's parts: the lease file, dead processes, and released leases."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.client.lease_file import (
    IDLE,
    LINE_BYTES,
    MOST_LINES,
    NO_SESSION,
    STALE_MS,
    UNKNOWN_SESSION,
    UNKNOWN_SHARD,
    WORKING,
    LeaseFile,
    Note,
)
from connection_governor.core.deadline import Deadline
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.extension import GRACE_MS, POLL_S, NotedProcess, OrphanedLeases, release_noted
from connection_governor.metrics import Reporter
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK
from tests.support.virtual import NOW_MS, SetEntropy, VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

A_DAY_MS = 86_400_000


class Sockets:
    """The kernel's open connections, in memory. Each is a session's own name."""

    def __init__(self) -> None:
        self.open: set[tuple[int, int]] = set()

    def connect(self) -> Socket:
        """Open a connection."""
        socket = Socket(50_000 + len(self.open))
        self.open.add(socket.ports)
        return socket

    def __call__(self) -> set[tuple[int, int]]:
        """See `extension.connections`."""
        return set(self.open)


class Socket:
    """A session's socket, as far as it is noted."""

    port = 3_306

    def __init__(self, local_port: int) -> None:
        self.local_port = local_port

    @property
    def ports(self) -> tuple[int, int]:
        """Its name."""
        return (self.local_port, self.port)


@pytest.fixture
def sockets() -> Sockets:
    """None is open."""
    return Sockets()


def crash(notes: LeaseFile) -> None:
    """Let go of the file, as the kernel does for a process that has ended."""
    assert notes._file is not None
    os.close(notes._file)


def wanted(number: int = 1) -> Wanted:
    """Return a lease to ask for."""
    return Wanted("orders", f"lease{number:03}", "checkout/2f1c", 1, NOW_MS + 30_000)


@pytest.fixture
def service() -> Service:
    """Return the leases, in three shards."""
    store, clock, entropy = MemoryStore(), VirtualClock(), SetEntropy()
    operations = Operations(store, clock, entropy)
    operations.set_budget("orders", 6, shards=3)
    return Service(Engine(store, clock, entropy), lambda: operations, Reporter(write=lambda _line: None), clock)


def granted(service: Service, number: int = 1) -> Lease:
    """Return a lease that is held."""
    grant = service.acquire(wanted(number))
    assert isinstance(grant, Grant)
    return grant.lease


def held(service: Service) -> list[str]:
    """Return the ids of the stored leases."""
    return [lease["lease_id"] for lease in service.status("orders")["leases"]]


def only_file(folder: Path) -> NotedProcess:
    """Return the notes of the only process."""
    (path,) = folder.iterdir()
    return NotedProcess(str(path))


def test_a_note_says_all_that_a_release_needs(service: Service) -> None:
    """A crashed environment's lease cannot be named, so it is not released."""
    lease = granted(service)
    note = Note.of(Note(lease, WORKING, 50_000, 3_306).line())
    assert note is not None
    assert (note.session, note.ports) == (WORKING, (50_000, 3_306))
    assert note.lease.record == lease.record
    assert note.lease.key == lease.key
    assert service.release(note.lease)


def test_the_longest_names_fit_into_a_line() -> None:
    """A note that is cut off cannot be read."""
    lease = Lease("x" * 16, "d" * 32, "h" * 64, 4_095, 1, 4_398_046_511_103, 4_095)
    line = Note(lease, IDLE, 65_535, 65_535).line()
    assert len(line) == LINE_BYTES
    assert Note.of(line) is not None


@pytest.mark.parametrize("line", [b"", b" " * 127 + b"\n", b"k3Zq81Bd orders 0 1", b"\xff" * 128, b"a b c d e f g"])
def test_a_file_without_notes_is_skipped(line: bytes) -> None:
    """A file torn by a crash stops the extension."""
    assert Note.of(line) is None


def test_a_lease_is_noted_before_it_is_asked_for_and_until_it_is_gone(tmp_path: Path, service: Service) -> None:
    """A crash between a grant and its answer."""
    notes = LeaseFile(str(tmp_path))
    notes.wanted(wanted())
    seen = only_file(tmp_path)
    assert [note.lease.shard for note in seen.notes()] == [UNKNOWN_SHARD]
    lease = granted(service)
    notes.held(lease)
    assert [note.lease.record for note in seen.notes()] == [lease.record]
    renewed = replace(lease, expires_at_ms=lease.expires_at_ms + 1)
    notes.held(renewed)
    assert [note.lease.record for note in seen.notes()] == [renewed.record]
    notes.gone(lease.lease_id)
    assert seen.notes() == []
    seen.close()


def test_the_file_does_not_grow(tmp_path: Path) -> None:
    """/tmp fills up in an environment that lives for hours."""
    notes = LeaseFile(str(tmp_path))
    for number in range(3 * MOST_LINES):
        notes.wanted(wanted(number))
        notes.gone(wanted(number).lease_id)
    for number in range(3 * MOST_LINES):
        notes.wanted(wanted(number))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size == MOST_LINES * LINE_BYTES


def test_lines_of_leases_that_were_left_to_expire_are_used_again(tmp_path: Path) -> None:
    """After 64 failed acquires nothing of that environment's is ever noted again."""
    clock = VirtualClock()
    notes = LeaseFile(str(tmp_path), clock)
    for number in range(MOST_LINES):
        notes.wanted(wanted(number))
    seen = only_file(tmp_path)
    clock.advance(wanted().expires_at_ms + STALE_MS - NOW_MS)
    notes.wanted(replace(wanted(100), expires_at_ms=clock.now_ms() + 30_000))
    assert "lease100" not in {note.lease.lease_id for note in seen.notes()}  # by another's clock one may still be held
    clock.advance(1)
    for number in (101, 102):
        notes.wanted(replace(wanted(number), expires_at_ms=clock.now_ms() + 30_000))
    notes.gone("lease000")  # given back at last: its line is another's by now
    noted = {note.lease.lease_id for note in seen.notes()}
    assert len(noted) == MOST_LINES
    assert noted >= {"lease101", "lease102"}
    assert noted.isdisjoint({"lease000", "lease001"})
    seen.close()


def test_where_there_is_no_extension_nothing_happens(tmp_path: Path) -> None:
    """Every worker without the layer."""
    notes = LeaseFile(str(tmp_path / "missing"))
    notes.wanted(wanted())
    notes.gone(wanted().lease_id)
    assert list(tmp_path.iterdir()) == []


def test_a_lease_whose_answer_was_lost_is_found(service: Service) -> None:
    """An environment that was stopped while it asked leaves its lease behind."""
    granted(service)
    noted = Lease("lease001", "orders", "checkout", 1, None, NOW_MS + 30_000, UNKNOWN_SHARD)
    assert release_noted(service, noted, Deadline.after(1_800, SYSTEM_CLOCK))
    assert held(service) == []
    assert not release_noted(service, noted, Deadline.after(1_800, SYSTEM_CLOCK))


def test_leases_that_dead_processes_noted_are_released_and_forgotten(tmp_path: Path, service: Service) -> None:
    """The extension's only purpose. What is left by an earlier runtime is included."""
    for number in (1, 2):
        notes = LeaseFile(str(tmp_path))
        lease = granted(service, number)
        notes.held(lease)
        notes.closed(lease)
        crash(notes)
    alive = LeaseFile(str(tmp_path))
    alive.held(granted(service, 3))
    assert OrphanedLeases(str(tmp_path), service).release(Deadline.after(0, SYSTEM_CLOCK)) == 2
    assert held(service) == ["lease003"]
    assert len(list(tmp_path.iterdir())) == 1


def test_what_has_long_ended_by_itself_costs_no_time(tmp_path: Path) -> None:
    """The two seconds go to leases that expired an hour ago, and the live ones are not released."""
    notes = LeaseFile(str(tmp_path))
    notes.wanted(wanted())
    crash(notes)
    clock = VirtualClock()
    clock.advance(wanted().expires_at_ms + STALE_MS - NOW_MS + 1)
    assert OrphanedLeases(str(tmp_path), Unreachable(), clock).release(Deadline.after(A_DAY_MS, SYSTEM_CLOCK)) == 0


class Unreachable:
    """A transport that must not be used."""

    def __getattr__(self, verb: str) -> Any:  # noqa: ANN401 - any verb
        raise AssertionError(verb)


def test_without_a_lease_no_request_is_sent_or_waited_for(tmp_path: Path) -> None:
    """The end of every environment takes two seconds."""
    notes = LeaseFile(str(tmp_path))
    notes.wanted(wanted())
    notes.gone(wanted().lease_id)
    assert OrphanedLeases(str(tmp_path), Unreachable()).release(Deadline.after(A_DAY_MS, SYSTEM_CLOCK)) == 0


def test_only_a_session_that_is_known_to_have_ended_is_released(
    tmp_path: Path, service: Service, sockets: Sockets
) -> None:
    """Promise 5. A session that is being opened, that lingers, or that was at work is lent to another, too."""
    notes = LeaseFile(str(tmp_path))
    leases = [granted(service, number) for number in range(1, 7)]
    opening, signing_in, closed, lingers, idle, working = leases
    for lease in leases:
        notes.held(lease)
    for lease in (signing_in, closed, lingers, idle, working):
        notes.opened(lease, sockets.connect())
    for lease in (idle, closed, lingers):
        notes.working(lease.lease_id, working=False)
    notes.working(working.lease_id, working=True)
    notes.closed(closed)
    notes.lingers(lingers)
    crash(notes)
    sockets.open.clear()
    clock = VirtualClock()
    assert OrphanedLeases(str(tmp_path), service, clock, sockets).release(Deadline.after(1_800, clock)) == 2
    assert set(held(service)) == {lease.lease_id for lease in (opening, signing_in, lingers, working)}
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_an_idle_session_is_waited_for_and_a_moment_more(
    tmp_path: Path, service: Service, sockets: Sockets
) -> None:
    """MySQL still counts the session, and refuses the next holder of its slot."""
    notes, lease, clock = LeaseFile(str(tmp_path)), granted(service), VirtualClock()
    notes.opened(lease, sockets.connect())
    notes.working(lease.lease_id, working=False)
    crash(notes)
    half_a_second = [lambda: None] * (500 // round(POLL_S * 1_000) - 1)
    clock.meanwhile += [*half_a_second, sockets.open.clear]
    asked = Watched(service, clock)
    since_ms = clock.now_ms()
    assert OrphanedLeases(str(tmp_path), asked, clock, sockets).release(Deadline.after(1_800, clock)) == 1
    assert asked.released_ms == [since_ms + 500 + GRACE_MS]


@pytest.mark.parametrize("seen", [lambda: None, lambda: {(50_000, 3_306)}], ids=["untold", "open"])
def test_a_session_that_may_be_open_keeps_its_lease(tmp_path: Path, service: Service, seen: Any) -> None:  # noqa: ANN401 - as `connections`
    """Where the kernel tells nothing, or MySQL has not noticed, the slot is lent twice."""
    notes, lease, clock = LeaseFile(str(tmp_path)), granted(service), VirtualClock()
    notes.opened(lease, Socket(50_000))
    notes.working(lease.lease_id, working=False)
    crash(notes)
    since_ms = clock.now_ms()
    assert OrphanedLeases(str(tmp_path), service, clock, seen).release(Deadline.after(1_800, clock)) == 0
    assert since_ms + 1_800 <= clock.now_ms() < since_ms + 1_900
    assert held(service) == [lease.lease_id]


def test_a_living_process_takes_no_time_from_the_others(tmp_path: Path, service: Service) -> None:
    """What crashed is not given back because something else in the environment did not."""
    alive = [LeaseFile(str(tmp_path)) for _ in range(2)]
    for number, notes in enumerate(alive):
        notes.held(granted(service, number))
    dead, lease = LeaseFile(str(tmp_path)), granted(service, 5)
    dead.held(lease)
    dead.closed(lease)
    crash(dead)
    asked = Watched(service, clock := VirtualClock())
    since_ms = clock.now_ms()
    assert OrphanedLeases(str(tmp_path), asked, clock).release(Deadline.after(1_800, clock)) == 1
    assert asked.released_ms == [since_ms]
    assert clock.now_ms() >= since_ms + 1_800  # those that live on may still end


class Watched:
    """A transport that notes when it releases."""

    def __init__(self, service: Service, clock: VirtualClock) -> None:
        self._service = service
        self._clock = clock
        self.released_ms: list[int] = []

    def release(self, lease: Lease, *, deadline: Deadline | None = None) -> bool:
        """See `Transport.release`."""
        self.released_ms.append(self._clock.now_ms())
        return self._service.release(lease, deadline=deadline)

    def __getattr__(self, verb: str) -> Any:  # noqa: ANN401 - any verb
        return getattr(self._service, verb)


def test_a_renewal_keeps_what_is_known_of_the_session(tmp_path: Path, service: Service) -> None:
    """The lease of a kept session cannot be given back once it was renewed, or is while MySQL works."""
    notes, lease = LeaseFile(str(tmp_path)), granted(service)
    notes.wanted(wanted())
    notes.held(lease)
    seen = only_file(tmp_path)
    assert [note.session for note in seen.notes()] == [UNKNOWN_SESSION]
    notes.working(lease.lease_id, working=False)  # of another driver's session nothing is known
    assert [note.session for note in seen.notes()] == [UNKNOWN_SESSION]
    socket = Socket(50_000)
    notes.opened(lease, socket)
    assert [note.session for note in seen.notes()] == [WORKING]
    notes.working(lease.lease_id, working=False)
    renewed = replace(lease, expires_at_ms=lease.expires_at_ms + 1)
    notes.held(renewed)
    (note,) = seen.notes()
    assert (note.session, note.ports, note.lease.record) == (IDLE, socket.ports, renewed.record)
    notes.closed(renewed)
    assert [note.session for note in seen.notes()] == [NO_SESSION]
    notes.gone(lease.lease_id)
    notes.closed(renewed)
    notes.working(lease.lease_id, working=True)
    assert seen.notes() == []
    seen.close()
