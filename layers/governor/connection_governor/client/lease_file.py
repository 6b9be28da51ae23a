"""Tells the layer's extension which leases this process holds, so that they come back when it is stopped or crashes.

One small file for each process, in a folder that the extension makes at its start: where there is none, nothing is
written. A lease has a line of fixed length in it, written by one system call before the lease is first asked for, and
cleared once it is given back; the page cache survives a crash, so nothing is forced to disk. The line of a lease that
was left to expire is written over when another needs it, `STALE_MS` after its end or later. The process keeps its file
locked. The kernel drops the lock with the process's last descriptors, its sockets among them, and those of a forked
child that shares them: whoever gets the lock knows that they are gone.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from connection_governor.core.lease import Lease, holder_tag
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Wanted

FOLDER = "/tmp/connection-governor"  # noqa: S108 - what runtime and extension share; nobody else is there
SUFFIX = ".leases"
LINE_BYTES = 128
MOST_LINES = 64
STALE_MS = 60_000  # so long after its end a lease is over by every clock
UNKNOWN_SHARD = -1
_BLANK = b" " * (LINE_BYTES - 1) + b"\n"


class HasPort(Protocol):
    """An open session, as far as it is noted."""

    @property
    def local_port(self) -> int:
        """Its TCP port at this end; 0: none."""


class Notes(Protocol):
    """Where a process notes its leases."""

    def wanted(self, wanted: Wanted) -> None:
        """A lease is about to be asked for."""

    def held(self, lease: Lease) -> None:
        """A lease was granted or renewed."""

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """A session was opened under a lease."""

    def gone(self, lease_id: str) -> None:
        """A lease was given back, or was never lent."""

    def held_now(self) -> list[str]:
        """Return the ids of the leases that this process holds, or may hold."""

    def close(self) -> None:
        """Remove the process's file; the next lease starts another."""


class NoNotes:
    """Where there is no extension to read them."""

    def wanted(self, wanted: Wanted) -> None:
        """See `Notes.wanted`."""

    def held(self, lease: Lease) -> None:
        """See `Notes.held`."""

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """See `Notes.opened`."""

    def gone(self, lease_id: str) -> None:
        """See `Notes.gone`."""

    def held_now(self) -> list[str]:
        """See `Notes.held_now`."""
        return []

    def close(self) -> None:
        """See `Notes.close`."""


NO_NOTES = NoNotes()


@dataclass(frozen=True, slots=True)
class Note:
    """One lease as noted: its holder is the tag that is stored with it.

    Attributes:
        lease: with `UNKNOWN_SHARD` while it is only wanted.
        port: local port of the session opened under it; 0: none, or not opened by this package.
    """

    lease: Lease
    port: int = 0

    def line(self) -> bytes:
        """The line to write."""
        lease = self.lease
        tag = holder_tag(lease.holder)
        words = (lease.lease_id, lease.database, lease.shard, lease.connections, lease.expires_at_ms, self.port, tag)
        return " ".join(map(str, words)).encode().ljust(LINE_BYTES - 1) + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Note | None:
        """What a line says; None for a blank one, or one that is not whole."""
        words = line.decode("ascii", "replace").split()
        with suppress(ValueError):
            lease_id, database, shard, connections, expires_at_ms, port, tag = words
            lease = Lease(lease_id, database, tag, int(connections), None, int(expires_at_ms), int(shard))
            return cls(lease, int(port))
        return None

    def is_stale(self, now_ms: int) -> bool:
        """Whether the lease has long ended by itself."""
        return self.lease.expires_at_ms + STALE_MS < now_ms


class NoteFile:
    """A process's notes. Where they cannot be written, none are: the leases then end by themselves.

    Args:
        folder: where; it need not exist.
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
        self._ports: dict[str, int] = {}
        self._free: list[int] = []
        self._lock = threading.Lock()

    def wanted(self, wanted: Wanted) -> None:
        """See `Notes.wanted`."""
        lease = Lease(
            wanted.lease_id,
            wanted.database,
            wanted.holder,
            wanted.connections,
            None,
            wanted.expires_at_ms,
            UNKNOWN_SHARD,
        )
        self._write(lease, 0)

    def held(self, lease: Lease) -> None:
        """See `Notes.held`."""
        self._write(lease, self._ports.get(lease.lease_id, 0))

    def opened(self, lease: Lease, connection: HasPort) -> None:
        """See `Notes.opened`."""
        port = self._ports[lease.lease_id] = connection.local_port
        self._write(lease, port)

    def gone(self, lease_id: str) -> None:
        """See `Notes.gone`."""
        self._ports.pop(lease_id, None)
        with self._lock:
            if lease_id in self._lines:
                number, _ = self._lines.pop(lease_id)
                self._put(number, _BLANK)
                self._free.append(number)

    def held_now(self) -> list[str]:
        """See `Notes.held_now`."""
        now_ms = self._now_ms()
        with self._lock:
            mine = self._lines.items() if self._process == os.getpid() else ()
            return [lease_id for lease_id, (_, note) in mine if not note.is_stale(now_ms)]

    def close(self) -> None:
        """See `Notes.close`. A forked child leaves its parent's file alone."""
        with self._lock:
            if self._process == os.getpid() and self._file is not None:
                with suppress(OSError):
                    os.unlink(self._path)  # noqa: PTH108 - pathlib costs 5 ms to import
                os.close(self._file)
            self._process, self._file = 0, None

    def _write(self, lease: Lease, port: int) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._open()
            number = self._line_of(lease.lease_id)
            if number is not None:  # else so many are held that this one, too, ends by itself
                note = Note(lease, port)
                self._lines[lease.lease_id] = (number, note)
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
        if stale is None:
            return None
        self._ports.pop(stale, None)
        return self._lines.pop(stale)[0]

    def _put(self, number: int, line: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, line, number * LINE_BYTES)

    def _open(self) -> None:
        """Start this process's own file: a forked child must not write into its parent's."""
        self._process, self._file = os.getpid(), None
        self._lines, self._ports, self._free = {}, {}, []
        with suppress(OSError):
            self._path = f"{self._folder}/{self._process}-{os.urandom(4).hex()}{SUFFIX}"
            opened = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(opened, fcntl.LOCK_SH)
            self._file = opened
