"""The layer's external extension: gives an environment's leases back when its runtime is gone. Lambda runs it.

It hears of SHUTDOWN only, so that no invocation waits for it, and sleeps until then; Lambda sends SHUTDOWN after a
time-out and a crash of the runtime, too. It reads what the client noted (`notes`) and gives a lease back once

- the process that noted it is gone, and with it its sockets: its notes can be locked; and
- the session opened under it has been closed by MySQL as well: its connection has left the kernel's table. A statement
  that runs on holds its session, and so its lease.

Notes of leases that have long ended by themselves are passed over.
What it cannot see within its two seconds it leaves: the lease ends by itself. So it is where the whole environment is
killed, for then nothing runs. Without a lease it does nothing at all. NOT seen: MySQL hangs up before it rolls back, so
that a session which died in a large transaction counts for a while after its lease was given back.
Serves zip packages on the managed Python runtimes; in a container image it has to be copied to /opt/extensions.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from connection_governor.aws.http1 import Address, Connection, request_bytes
from connection_governor.client.lease_file import FOLDER, LINE_BYTES, SUFFIX, UNKNOWN_SHARD, Note
from connection_governor.core.deadline import Deadline
from connection_governor.core.values import replace
from connection_governor.errors import GovernorError
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, governor_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from connection_governor.client.acquire import Transport
    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Lease

NAME = "connection-governor"  # as its file in /opt/extensions
POLL_S = 0.005
GRACE_S = 0.03  # MySQL hangs up some milliseconds before it stops counting a session
SHUTDOWN_S = 1.8  # Lambda gives two seconds
_LONG_MS = 2_000_000_000  # what a socket's time-out can hold: 23 days, longer than any environment lives
_API = "/2020-01-01/extension"
_ENDED = "06"  # TIME_WAIT: both sides have finished
_SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")


class ExtensionApi:
    """Lambda's side.

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
        """Say that we are ready, and sleep until the environment ends."""
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
    """One process's notes, as its survivor reads them.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def notes(self) -> list[Note]:
        """What it holds, or may hold."""
        text = os.pread(self._file, LINE_BYTES * 1_024, 0)
        lines = (text[start : start + LINE_BYTES] for start in range(0, len(text), LINE_BYTES))
        return [note for line in lines if (note := Note.of(line)) is not None]

    def is_gone(self) -> bool:
        """Whether the process, and whoever shares its descriptors, has ended."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def forget(self) -> None:
        """Remove the notes: nothing is left to give back."""
        with suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - pathlib costs 5 ms to import

    def close(self) -> None:
        """Stop reading."""
        os.close(self._file)


def give_back(transport: Transport, lease: Lease) -> bool:
    """Release a noted lease, wherever it was lent; whether there was anything to give back."""
    if lease.shard != UNKNOWN_SHARD:
        return transport.release(lease)
    # The answer to its acquire never came: look for it.
    stored: Iterable[dict[str, Any]] = transport.status(lease.database)["leases"]
    found = [one for one in stored if one["lease_id"] == lease.lease_id]
    return any(transport.release(_as_stored(lease, one)) for one in found)


def has_ended(port: int) -> bool:
    """Whether the connection with this local port is over on both sides; False where the kernel does not say."""
    return port == 0 or not any(_lists(table, f":{port:04X}") for table in _SOCKETS)


def _lists(table: str, local_end: str) -> bool:
    try:
        with open(table, encoding="ascii") as sockets:  # noqa: PTH123 - as above
            rows = (line.split(None, 4) for line in sockets)
            return any(row[1].endswith(local_end) and row[3] != _ENDED for row in rows)
    except OSError:
        return table == _SOCKETS[0]  # without the second there is no IPv6


class Survivor:
    """Gives back what dead processes noted.

    Args:
        folder: where the notes are.
        transport: reaches the leases.
        clock: the leases' clock.
    """

    def __init__(self, folder: str, transport: Transport, clock: Clock = SYSTEM_CLOCK) -> None:
        self._folder = folder
        self._transport = transport
        self._clock = clock

    def settle(self, until: float) -> int:
        """Give back what can be, until this reading of `time.monotonic()`; how many leases were."""
        return sum(self._settle(process, until) for process in self._processes())

    def _processes(self) -> list[NotedProcess]:
        names = [name for name in os.listdir(self._folder) if name.endswith(SUFFIX)]  # noqa: PTH208 - as above
        return [NotedProcess(f"{self._folder}/{name}") for name in names]

    def _settle(self, process: NotedProcess, until: float) -> int:
        given_back = 0
        if not self._notes_of(process):
            if process.is_gone():
                process.forget()
        elif _wait(process.is_gone, until):
            given_back = sum(self._give_back(note, until) for note in self._notes_of(process))
            process.forget()
        process.close()
        return given_back

    def _notes_of(self, process: NotedProcess) -> list[Note]:
        now_ms = self._clock.now_ms()
        return [note for note in process.notes() if not note.is_stale(now_ms)]

    def _give_back(self, note: Note, until: float) -> bool:
        if not _wait(lambda: has_ended(note.port), until):
            return False
        time.sleep(GRACE_S if note.port else 0)
        try:
            return give_back(self._transport, note.lease)
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
        Survivor(FOLDER, transport).settle(time.monotonic() + SHUTDOWN_S)


def _transport(environment: Environment) -> Transport | None:
    """How the worker reaches the leases; None where it is not set up to: that must not fail the environment."""
    try:
        transport: Transport = governor_parts(environment)["transport"]
    except GovernorError:
        return None
    return transport


def _as_stored(lease: Lease, stored: Mapping[str, Any]) -> Lease:
    return replace(lease, shard=stored["shard"], expires_at_ms=stored["expires_at_ms"])


def _wait(condition: Callable[[], bool], until: float) -> bool:
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


if __name__ == "__main__":
    main()
