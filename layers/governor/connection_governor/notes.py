"""Tells the layer's extension which leases this process holds, so that they come back when it is stopped or crashes.

One small file for each process, in a folder that the extension makes at its start: where there is none, nothing is
written. A lease has a line of fixed length in it, written by one system call before the lease is first asked for, and
cleared once it is given back; the page cache survives a crash, so nothing is forced to disk. The process keeps its file
locked. The kernel drops the lock with the process's last descriptors, its sockets among them, and those of a forked
child that shares them: whoever gets the lock knows that they are gone.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from connection_governor.lease import Lease, holder_tag

if TYPE_CHECKING:
    from dataclasses import dataclass

    from connection_governor.lease import Wanted
    from connection_governor.mysql import FencedConnection
else:
    from connection_governor.values import dataclass

FOLDER = "/tmp/connection-governor"  # noqa: S108 - what runtime and extension share; nobody else is there
SUFFIX = ".leases"
LINE_BYTES = 128
MOST_LINES = 64
UNKNOWN_SHARD = -1
_BLANK = b" " * (LINE_BYTES - 1) + b"\n"


class Notes(Protocol):
    """Where a process notes its leases."""

    def wanted(self, wanted: Wanted) -> None:
        """A lease is about to be asked for."""

    def held(self, lease: Lease) -> None:
        """A lease was granted or renewed."""

    def opened(self, lease: Lease, connection: FencedConnection) -> None:
        """A session was opened under a lease."""

    def gone(self, lease_id: str) -> None:
        """A lease was given back, or was never lent."""


class NoNotes:
    """Where there is no extension to read them."""

    def wanted(self, wanted: Wanted) -> None:
        """See `Notes.wanted`."""

    def held(self, lease: Lease) -> None:
        """See `Notes.held`."""

    def opened(self, lease: Lease, connection: FencedConnection) -> None:
        """See `Notes.opened`."""

    def gone(self, lease_id: str) -> None:
        """See `Notes.gone`."""


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


class NoteFile:
    """A process's notes. Where they cannot be written, none are: the leases then end by themselves.

    Args:
        folder: where; it need not exist.
    """

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder
        self._process = 0
        self._file: int | None = None
        self._lines: dict[str, int] = {}
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

    def opened(self, lease: Lease, connection: FencedConnection) -> None:
        """See `Notes.opened`."""
        self._ports[lease.lease_id] = connection.local_port
        self._write(lease, connection.local_port)

    def gone(self, lease_id: str) -> None:
        """See `Notes.gone`."""
        self._ports.pop(lease_id, None)
        with self._lock:
            number = self._lines.pop(lease_id, None)
            if number is not None:
                self._put(number, _BLANK)
                self._free.append(number)

    def _write(self, lease: Lease, port: int) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._open()
            number = self._lines.get(lease.lease_id)
            if number is None:
                number = self._free.pop() if self._free else len(self._lines)
                if number >= MOST_LINES:  # so many are held, or left to expire: these, too, end by themselves
                    return
                self._lines[lease.lease_id] = number
            self._put(number, Note(lease, port).line())

    def _put(self, number: int, line: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, line, number * LINE_BYTES)

    def _open(self) -> None:
        """Start this process's own file: a forked child must not write into its parent's."""
        self._process, self._file = os.getpid(), None
        self._lines, self._ports, self._free = {}, {}, []
        with suppress(OSError):
            path = f"{self._folder}/{self._process}-{os.urandom(4).hex()}{SUFFIX}"
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(opened, fcntl.LOCK_SH)
            self._file = opened
