"""The layer's external extension: releases an environment's leases when its runtime is gone. Lambda runs it.

It registers for SHUTDOWN only, so that no invocation waits for it. Lambda also sends SHUTDOWN after a time-out or a
crash of the runtime. The extension reads what the client noted (`lease_file`) and releases a lease once

- the process that noted it is gone, and with it its sockets: its lease file can be locked; and
- the session under it is known to have ended: the client noted so, or the client noted that the session had nothing to
  do, and its connection has ended. MySQL ends such a session as soon as its client is gone.

The connection of a session that was at work proves nothing: a process that dies with unread bytes resets it, and so
does an answer that comes too late, while MySQL keeps working. Nothing is known of a session that was being opened, nor
of those of other drivers. Leases that the extension cannot confirm within its two seconds are left to expire. So are
all of them if the whole environment is killed, since then nothing runs. Without a lease the extension does nothing.
Serves zip packages on the managed Python runtimes; in a container image it has to be copied to /opt/extensions.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from connection_governor.aws.http1 import Address, Connection, request_bytes
from connection_governor.client.lease_file import FOLDER, IDLE, LINE_BYTES, NO_SESSION, SUFFIX, UNKNOWN_SHARD, Note
from connection_governor.core.deadline import Deadline
from connection_governor.core.values import replace
from connection_governor.errors import GovernorError
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, governor_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from connection_governor.client.acquire import Transport
    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Lease

    Ports = set[tuple[int, int]] | None

NAME = "connection-governor"  # as its file in /opt/extensions
POLL_S = 0.005
GRACE_MS = 30  # MySQL counts a session for some milliseconds after its connection has ended
SHUTDOWN_MS = 1_800  # Lambda gives two seconds
_LONG_MS = 2_000_000_000  # what a socket's time-out can hold: 23 days, longer than any environment lives
_API = "/2020-01-01/extension"
_TIME_WAIT = "06"  # both sides have finished
_ENDS_WITH_ITS_CLIENT = {NO_SESSION, IDLE}
_SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")


class ExtensionApi:
    """Lambda's Extensions API.

    Args:
        address: host and port, as `AWS_LAMBDA_RUNTIME_API` has it.
    """

    def __init__(self, address: str) -> None:
        self._address = Address.of(f"http://{address}")
        self._headers = {"host": self._address.authority}

    def register(self) -> None:
        """Ask for SHUTDOWN only."""
        body = json.dumps({"events": ["SHUTDOWN"]}).encode()
        headers = {"lambda-extension-name": NAME, "content-type": "application/json", "content-length": str(len(body))}
        answer = self._exchange("POST", "/register", headers, body)
        self._headers["lambda-extension-identifier"] = answer["lambda-extension-identifier"]

    def wait_for_shutdown(self) -> None:
        """Report that the extension is ready, and sleep until the environment ends."""
        self._exchange("GET", "/event/next", {}, b"")

    def _exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        deadline = Deadline.after(_LONG_MS, SYSTEM_CLOCK)
        connection = Connection(self._address, deadline, None)
        try:
            request = request_bytes(method, _API + path, {**self._headers, **headers}, body)
            return connection.exchange(request, deadline).headers
        finally:
            connection.close()


class NotedProcess:
    """One process's lease file, as its survivor reads it.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def notes(self) -> list[Note]:
        """Return the leases that it holds, or may hold."""
        text = os.pread(self._file, LINE_BYTES * 1_024, 0)
        lines = (text[start : start + LINE_BYTES] for start in range(0, len(text), LINE_BYTES))
        return [note for line in lines if (note := Note.of(line)) is not None]

    def is_gone(self) -> bool:
        """Return whether the process, and every process that shares its descriptors, has ended."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Remove the file: nothing is left to release."""
        with suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - pathlib costs 5 ms to import

    def close(self) -> None:
        """Stop reading."""
        os.close(self._file)


def release_noted(transport: Transport, lease: Lease, deadline: Deadline) -> bool:
    """Release a noted lease, whatever shard granted it; return whether there was anything to release."""
    if lease.shard != UNKNOWN_SHARD:
        return transport.release(lease, deadline=deadline)
    # The answer to its acquire never came: look for it.
    stored: Iterable[dict[str, Any]] = transport.status(lease.database, deadline=deadline)["leases"]
    found = [one for one in stored if one["lease_id"] == lease.lease_id]
    return any(transport.release(_as_stored(lease, one), deadline=deadline) for one in found)


def connections() -> Ports:
    """Return the kernel's open TCP connections by local and remote port; None if it does not show them."""
    seen: set[tuple[int, int]] = set()
    for table in _SOCKETS:
        try:
            seen.update(_connections(table))
        except OSError:
            if table == _SOCKETS[0]:  # without the second there is no IPv6
                return None
    return seen


def _connections(table: str) -> Iterator[tuple[int, int]]:
    with open(table, encoding="ascii") as sockets:  # noqa: PTH123 - as above
        next(sockets, None)  # the heading
        for _, local, remote, state, _ in (line.split(None, 4) for line in sockets):
            if state != _TIME_WAIT:
                yield int(local[-4:], 16), int(remote[-4:], 16)


class _Ending:
    """A lease whose session ends, or has ended, with its client."""

    def __init__(self, note: Note) -> None:
        self.note = note
        self._ended_ms: int | None = None

    def has_ended(self, seen: Ports, now_ms: int) -> bool:
        """Return whether MySQL no longer counts the session, by the connections that are seen now."""
        if self.note.session == NO_SESSION:
            return True
        if seen is None or self.note.ports in seen:
            return False
        if self._ended_ms is None:
            self._ended_ms = now_ms
        return now_ms >= self._ended_ms + GRACE_MS


class OrphanedLeases:
    """Releases the leases that dead processes noted.

    Args:
        folder: where the lease files are.
        transport: reaches the leases.
        clock: the leases' clock.
        seen: returns the open connections, as `connections` does.
    """

    def __init__(
        self, folder: str, transport: Transport, clock: Clock = SYSTEM_CLOCK, seen: Callable[[], Ports] = connections
    ) -> None:
        self._folder = folder
        self._transport = transport
        self._clock = clock
        self._seen = seen

    def release(self, deadline: Deadline) -> int:
        """Release what can be, until this moment; return how many leases were.

        All processes and sessions are checked in turn, so that one that lives on takes no time from the others.
        """
        processes = self._processes()
        try:
            return self._release_all([process for process in processes if not self._is_blank(process)], deadline)
        finally:
            for process in processes:
                process.close()

    def _release_all(self, processes: list[NotedProcess], deadline: Deadline) -> int:
        released, pending = 0, list[_Ending]()
        while True:
            for process in [one for one in processes if one.is_gone()]:
                processes.remove(process)
                pending += [_Ending(note) for note in self._notes_of(process) if note.session in _ENDS_WITH_ITS_CLIENT]
                process.forget()
            ready = self._ready(pending)
            pending = [ending for ending in pending if ending not in ready]
            released += sum(self._release(ending.note, deadline) for ending in ready)
            if not (processes or pending) or deadline.has_passed():
                return released
            self._clock.sleep(POLL_S)

    def _ready(self, pending: list[_Ending]) -> list[_Ending]:
        """Return the leases whose session has ended, and is no longer counted."""
        now_ms, seen = self._clock.monotonic_ms(), self._seen()
        return [ending for ending in pending if ending.has_ended(seen, now_ms)]

    def _processes(self) -> list[NotedProcess]:
        names = [name for name in os.listdir(self._folder) if name.endswith(SUFFIX)]  # noqa: PTH208 - as above
        return [NotedProcess(f"{self._folder}/{name}") for name in names]

    def _is_blank(self, process: NotedProcess) -> bool:
        """Return whether no lease is noted: such a process is not waited for."""
        if self._notes_of(process):
            return False
        if process.is_gone():
            process.forget()
        return True

    def _notes_of(self, process: NotedProcess) -> list[Note]:
        now_ms = self._clock.now_ms()
        return [note for note in process.notes() if not note.is_stale(now_ms)]

    def _release(self, note: Note, deadline: Deadline) -> bool:
        try:
            return release_noted(self._transport, note.lease, deadline)
        except GovernorError:
            return False


def main() -> None:
    """Live as long as the environment."""
    environment = Environment.current()
    with suppress(FileExistsError):
        os.mkdir(FOLDER, 0o700)  # noqa: PTH102 - as above
    api = ExtensionApi(environment.required("AWS_LAMBDA_RUNTIME_API"))
    transport = _transport(environment)
    api.register()
    api.wait_for_shutdown()
    if transport is not None:
        OrphanedLeases(FOLDER, transport).release(Deadline.after(SHUTDOWN_MS, SYSTEM_CLOCK))


def _transport(environment: Environment) -> Transport | None:
    """Return how the worker reaches the leases; None if it is not configured: that must not fail the environment."""
    try:
        transport: Transport = governor_parts(environment)["transport"]
    except GovernorError:
        return None
    return transport


def _as_stored(lease: Lease, stored: Mapping[str, Any]) -> Lease:
    return replace(lease, shard=stored["shard"], expires_at_ms=stored["expires_at_ms"])


if __name__ == "__main__":
    main()
