"""Start local servers in process groups of their own, wait until they answer, and stop them whatever happens."""

import atexit
import contextlib
import os
import pwd
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
from typing import Any

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
    user: str | None = None,
) -> Server:
    """Start a server in its own session, with its output in `log`; it ends with this process at the latest.

    As root, a server may run as another user of this machine.
    """
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
            **as_user(user),
        )
    _notify_guard("add", "group", process.pid)
    return Server(name, process, log)


def as_user(name: str | None) -> dict[str, Any]:
    """Return what makes `subprocess` run a program as a user, in that user's group alone; for None, nothing."""
    if name is None:
        return {}
    account = pwd.getpwnam(name)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


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


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == pid]


def _parent(entry: Path) -> int | None:
    state, parent = _state_and_parent(entry)
    return None if state in "ZX" else parent


def _state_and_parent(entry: Path) -> tuple[str, int]:
    try:
        state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def wait_until_ended(pids: Sequence[int], *, timeout_s: float) -> None:
    """Wait until none of these processes runs: an ended one whose parent has not asked yet counts as ended.

    Raises:
        StackError: one of them still runs after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid in pids if _state_and_parent(Path(f"/proc/{pid}"))[0] not in "ZX"]:
        if time.monotonic() > deadline:
            raise StackError(f"processes {left} did not end within {timeout_s:g} s")
        time.sleep(POLL_S)


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
