"""Start local servers in process groups of their own, wait until they answer, and stop them whatever happens."""

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

from harness.errors import StackError
from harness.stack import guard

LOOPBACK = "127.0.0.1"
# Below the range from which the kernel takes the local ends of outgoing connections: those could take a "free" port
# between its choice and its use.
PORTS = range(20_000, 32_000)
POLL_S = 0.05
LOG_LINES_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its name for messages, its process (leader of its own group), its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id, which is the process group's id too."""
        return self.process.pid

    def alive(self) -> bool:
        """Return whether the server's process still runs."""
        return self.process.poll() is None


def free_port(wanted: int | None = None) -> int:
    """Return a free loopback port.

    Args:
        wanted: the only port that will do, or None for any.

    Raises:
        StackError: the wanted port is taken.
    """
    if wanted is not None:
        if not _can_listen(wanted):
            raise StackError(
                f"port {wanted} is taken: stop what listens there, or leave the port out to use a free one"
            )
        return wanted
    for port in random.SystemRandom().sample(PORTS, 200):
        if _can_listen(port):
            return port
    raise StackError(f"no free port found on {LOOPBACK} from {PORTS.start} to {PORTS.stop - 1}")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@cache
def _guard() -> subprocess.Popen[str]:
    """Return this process's only guard: see `guard.py`."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    atexit.register(process.communicate)  # the end of its input is its cue: it ends what is left, and goes
    return process


def _notify_guard(verb: str, kind: str, name: object) -> None:
    pipe = _guard().stdin
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):
        pipe.write(f"{verb} {kind} {name}\n")
        pipe.flush()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Server:
    """Start a server in its own session, with its output in `log`; it ends with this process at the latest."""
    _guard()  # before the server: a failing guard must leave nothing running
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    _notify_guard("add", "group", process.pid)
    return Server(name, process, log)


def stop(server: Server, *, grace_s: float = 5.0) -> None:
    """End the server and its children: ask first, kill after `grace_s`. Do nothing if it has ended already."""
    guard.end_group(server.pid, grace_s)
    server.process.wait()
    _notify_guard("drop", "group", server.pid)


def kill(server: Server) -> None:
    """Kill the server and its children at once, as a crash would."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.process.wait()
    _notify_guard("drop", "group", server.pid)


def wait_until_ready(server: Server, ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Wait until `ready()`.

    Raises:
        StackError: the server ended or did not answer in time; the message shows the end of its log.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not server.alive():
            raise StackError(
                f"{server.name} ended at its start with code {server.process.returncode}.\n{_tail(server)}"
            )
        if time.monotonic() > deadline:
            raise StackError(f"{server.name} did not answer within {timeout_s:g} s.\n{_tail(server)}")
        time.sleep(POLL_S)


def _tail(server: Server) -> str:
    lines = server.log.read_text(errors="replace").splitlines() if server.log.exists() else []
    return "\n".join(["Its last lines:", *lines[-LOG_LINES_SHOWN:]])


@contextlib.contextmanager
def short_folder(prefix: str) -> Iterator[Path]:
    """Yield a private temporary folder, its path short enough for a socket; removed even if this process is killed."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True) as path:
        _notify_guard("add", "folder", path)
        try:
            yield Path(path)
        finally:
            _notify_guard("drop", "folder", path)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """Let SIGTERM and a closed terminal unwind the program as Ctrl-C does, so that everything started is stopped."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where a shell started us in the background, with SIGINT ignored
