"""Servers are started, waited for and stopped, whatever happens to their parent."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import StackError
from harness.paths import ROOT
from harness.stack.guard import group_alive
from harness.stack.processes import LOOPBACK, free_port, start, stop, wait_until_ready

PARENT_AND_CHILD = "sleep 300 & echo up; wait"


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_stopping_a_server_ends_its_children_too(tmp_path: Path) -> None:
    """The local AWS runs each function as a child: they must not pile up on the user's machine."""
    server = start("sleepers", ["sh", "-c", PARENT_AND_CHILD], log=tmp_path / "log")
    wait_until_ready(server, lambda: "up" in server.log.read_text(), timeout_s=10)
    stop(server)
    assert not group_alive(server.pid)


def test_a_server_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    """The local AWS hangs while a custom resource waits for its answer."""
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    server = start("stubborn", ["sh", "-c", stubborn], log=tmp_path / "log")
    wait_until_ready(server, lambda: "up" in server.log.read_text(), timeout_s=10)
    stop(server, grace_s=0.3)
    assert not group_alive(server.pid)


def test_nothing_outlives_a_run_that_was_killed(tmp_path: Path) -> None:
    """SIGKILL, or the machine's out-of-memory killer, leaves no time to clean up."""
    program = f"""
import time
from collections.abc import Callable
from pathlib import Path
from harness.stack.processes import short_folder, start
with short_folder("gov-test-") as folder:
    server = start("sleepers", ["sh", "-c", {PARENT_AND_CHILD!r}], log=Path({str(tmp_path / "log")!r}))
    print(server.pid, folder, flush=True)
    time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        group, folder = run.stdout.readline().split()
        assert group_alive(int(group))
        run.send_signal(signal.SIGKILL)
    assert eventually(lambda: not group_alive(int(group)))
    assert eventually(lambda: not Path(folder).exists())


def test_a_run_that_forgot_a_server_ends_quietly_and_leaves_nothing(tmp_path: Path) -> None:
    """Its last words would be a warning of ours, and what it left would still be there when the next one starts."""
    program = f"""
from pathlib import Path
from harness.stack.processes import start
print(start("sleepers", ["sh", "-c", {PARENT_AND_CHILD!r}], log=Path({str(tmp_path / "log")!r})).pid)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not group_alive(int(done.stdout))
    assert done.stderr == ""


def test_a_server_that_ends_at_its_start_is_explained_by_its_log(tmp_path: Path) -> None:
    """`did not answer in 60 s` would hide why."""
    server = start("broken", ["sh", "-c", "echo no such table; exit 3"], log=tmp_path / "log")
    with pytest.raises(StackError, match=r"broken ended at its start with code 3(.|\n)*no such table"):
        wait_until_ready(server, lambda: False, timeout_s=10)
    stop(server)


def test_a_port_that_is_taken_is_named() -> None:
    """The user asked for this port: a client that expects it would not find another."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"port {port} is taken"):
            free_port(port)


def test_a_free_port_can_be_listened_on() -> None:
    """And it is not one that the kernel may give to an outgoing connection in between."""
    port = free_port()
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port < lowest
    with socket.create_server((LOOPBACK, port)), socket.create_connection((LOOPBACK, port)) as client:
        assert client.getpeername() == (LOOPBACK, port)
