"""Note which leases this process holds, for the layer's extension: it releases them if the process stops or crashes.

There is one small file for each process, in a folder that the extension creates at its start. Without that folder
nothing is written. Each lease has a line of fixed length, written by one system call before the lease is requested, and
cleared once it is released. The page cache survives a crash, so nothing is forced to disk. The line of a lease that
was left to expire is overwritten when another lease needs it, `STALE_MS` after its expiry or later.

The first letter of a line says what is known of the lease's session, see `Note.session`. Between the grant and the
first answer nothing is known: a socket may exist at any moment. The same holds for a lease that another driver uses.
Before a command is sent, and after it is answered, that letter alone is written again.

The process keeps its file locked. The kernel drops the lock with the last descriptor of the file, which a forked child
shares as it shares the sockets. So the process that gets the lock knows that all of the sockets are closed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from connection_governor.core.lease import Lease, holder_tag
from connection_governor.core.values import dataclass, replace

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Wanted

FOLDER = "/tmp/connection-governor"  # noqa: S108 - runtime and extension share it; no other user is there
SUFFIX = ".leases"
LINE_BYTES = 128
MOST_LINES = 64
STALE_MS = 60_000  # so long after its expiry a lease has expired by every clock
UNKNOWN_SHARD = -1
NO_SESSION, UNKNOWN_SESSION, IDLE, WORKING = "n", "u", "i", "w"
_BLANK = b" " * (LINE_BYTES - 1) + b"\n"


class HasPort(Protocol):
    """The part of an open session that is noted."""

    @property
    def local_port(self) -> int:
        """Its TCP port at this end; 0: none."""

    @property
    def port(self) -> int:
        """Its TCP port at the database's end."""


class LeaseNotes(Protocol):
    """The notes of one process about its leases."""

    def wanted(self, wanted: Wanted) -> None:
        """Note that a lease is about to be requested."""

    def held(self, lease: Lease) -> None:
        """Note that a lease was granted or renewed."""

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """Note that a session is about to sign in under a lease."""

    def working(self, lease_id: str, *, working: bool) -> None:
        """Note that the lease's session is about to work, or has nothing left to do."""

    def closed(self, lease: Lease) -> None:
        """Note that the lease's session has ended in order: only the release is left to do."""

    def lingers(self, lease: Lease) -> None:
        """Note that the database may still be working for the lease's session: only its expiry frees it."""

    def gone(self, lease_id: str) -> None:
        """Note that a lease was released, or was never granted."""

    def held_now(self) -> list[str]:
        """Return the ids of the leases that this process holds, or may hold."""

    def close(self) -> None:
        """Remove the process's file; the next lease starts another."""


class NoLeaseFile:
    """No notes: there is no extension to read them."""

    def wanted(self, wanted: Wanted) -> None:
        """See `LeaseNotes.wanted`."""

    def held(self, lease: Lease) -> None:
        """See `LeaseNotes.held`."""

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """See `LeaseNotes.opened`."""

    def working(self, lease_id: str, *, working: bool) -> None:
        """See `LeaseNotes.working`."""

    def closed(self, lease: Lease) -> None:
        """See `LeaseNotes.closed`."""

    def lingers(self, lease: Lease) -> None:
        """See `LeaseNotes.lingers`."""

    def gone(self, lease_id: str) -> None:
        """See `LeaseNotes.gone`."""

    def held_now(self) -> list[str]:
        """See `LeaseNotes.held_now`."""
        return []

    def close(self) -> None:
        """See `LeaseNotes.close`."""


NO_LEASE_FILE = NoLeaseFile()


@dataclass(frozen=True, slots=True)
class Note:
    """One lease as noted: its holder is the tag that is stored with it.

    Attributes:
        lease: with `UNKNOWN_SHARD` while it is only wanted.
        session: `NO_SESSION`: there is none, or it has ended in order; `UNKNOWN_SESSION`: there may be one, being
            opened, of another driver, or with work left to do; `IDLE`: one without work, which ends when its client
            does; `WORKING`: one that may continue without its client.
        port: local port of that session; 0: none is known.
        peer_port: the database's port of that session.
    """

    lease: Lease
    session: str = UNKNOWN_SESSION
    port: int = 0
    peer_port: int = 0

    @property
    def ports(self) -> tuple[int, int]:
        """Both ports, which identify a socket in the kernel's table."""
        return (self.port, self.peer_port)

    def line(self) -> bytes:
        """Return the line to write."""
        lease = self.lease
        named = (lease.lease_id, lease.database, lease.shard, lease.connections, lease.expires_at_ms)
        words = (self.session, *named, *self.ports, holder_tag(lease.holder))
        return " ".join(map(str, words)).encode().ljust(LINE_BYTES - 1) + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Note | None:
        """Return a line's note; None for a blank or incomplete line."""
        words = line.decode("ascii", "replace").split()
        with suppress(ValueError):
            session, lease_id, database, shard, connections, expires_at_ms, port, peer_port, tag = words
            lease = Lease(lease_id, database, tag, int(connections), None, int(expires_at_ms), int(shard))
            return cls(lease, session, int(port), int(peer_port))
        return None

    def is_stale(self, now_ms: int) -> bool:
        """Return whether the lease has long expired."""
        return self.lease.expires_at_ms + STALE_MS < now_ms


class LeaseFile:
    """A process's notes in a file. If they cannot be written, the leases are left to expire.

    Args:
        folder: the folder of the files; it need not exist.
        clock: the leases' clock; default: the machine's.
    """

    def __init__(self, folder: str = FOLDER, clock: Clock | None = None) -> None:
        from connection_governor.system import SYSTEM_CLOCK  # noqa: PLC0415 - not needed where there is no extension

        self._folder = folder
        self._now_ms = (clock or SYSTEM_CLOCK).now_ms
        self._process = 0
        self._path = ""
        self._file: int | None = None
        self._lines: dict[str, tuple[int, Note]] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def wanted(self, wanted: Wanted) -> None:
        """See `LeaseNotes.wanted`."""
        lease = Lease(
            wanted.lease_id,
            wanted.database,
            wanted.holder,
            wanted.connections,
            None,
            wanted.expires_at_ms,
            UNKNOWN_SHARD,
        )
        self._write(Note(lease, NO_SESSION))

    def held(self, lease: Lease) -> None:
        """See `LeaseNotes.held`. The knowledge of a renewed lease's session stays."""
        _, noted = self._lines.get(lease.lease_id, (0, None))
        if noted is None or noted.lease.shard == UNKNOWN_SHARD:
            self._write(Note(lease))
        else:
            self._write(Note(lease, noted.session, *noted.ports))

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """See `LeaseNotes.opened`."""
        port = connection.local_port
        self._write(Note(lease, WORKING if port else UNKNOWN_SESSION, port, connection.port))

    def working(self, lease_id: str, *, working: bool) -> None:
        """See `LeaseNotes.working`."""
        self._mark(lease_id, WORKING if working else IDLE)

    def closed(self, lease: Lease) -> None:
        """See `LeaseNotes.closed`."""
        self._mark(lease.lease_id, NO_SESSION)

    def lingers(self, lease: Lease) -> None:
        """See `LeaseNotes.lingers`."""
        self._mark(lease.lease_id, UNKNOWN_SESSION)

    def gone(self, lease_id: str) -> None:
        """See `LeaseNotes.gone`."""
        with self._lock:
            if self._process == os.getpid() and lease_id in self._lines:
                number, _ = self._lines.pop(lease_id)
                self._put(number, _BLANK)
                self._free.append(number)

    def held_now(self) -> list[str]:
        """See `LeaseNotes.held_now`."""
        now_ms = self._now_ms()
        with self._lock:
            mine = self._lines.items() if self._process == os.getpid() else ()
            return [lease_id for lease_id, (_, note) in mine if not note.is_stale(now_ms)]

    def close(self) -> None:
        """See `LeaseNotes.close`. A forked child leaves its parent's file alone."""
        with self._lock:
            if self._process == os.getpid() and self._file is not None:
                with suppress(OSError):
                    os.unlink(self._path)  # noqa: PTH108 - pathlib costs 5 ms to import
                os.close(self._file)
            self._process, self._file = 0, None

    def _write(self, note: Note) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._open()
            number = self._line_of(note.lease.lease_id)
            if number is not None:  # else so many are held that this one is left to expire as well
                self._set(number, note)

    def _mark(self, lease_id: str, session: str) -> None:
        """Write the letter again. An unknown session stays unknown until it has ended."""
        with self._lock:
            if self._process != os.getpid() or lease_id not in self._lines:
                return
            number, note = self._lines[lease_id]
            if note.port or session == NO_SESSION:
                self._lines[lease_id] = (number, replace(note, session=session))
                self._put(number, session.encode())

    def _set(self, number: int, note: Note) -> None:
        self._lines[note.lease.lease_id] = (number, note)
        self._put(number, note.line())

    def _line_of(self, lease_id: str) -> int | None:
        if lease_id in self._lines:
            return self._lines[lease_id][0]
        if self._free:
            return self._free.pop()
        if len(self._lines) < MOST_LINES:
            return len(self._lines)
        now_ms = self._now_ms()
        stale = next((old for old, (_, note) in self._lines.items() if note.is_stale(now_ms)), None)
        return None if stale is None else self._lines.pop(stale)[0]

    def _put(self, number: int, line: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, line, number * LINE_BYTES)

    def _open(self) -> None:
        """Start this process's own file: a forked child must not write into its parent's."""
        self._process, self._file = os.getpid(), None
        self._lines, self._free = {}, []
        with suppress(OSError):
            self._path = f"{self._folder}/{self._process}-{os.urandom(4).hex()}{SUFFIX}"
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(opened, fcntl.LOCK_SH)
            self._file = opened
