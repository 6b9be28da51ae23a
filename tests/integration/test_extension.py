"""What the extension learns from the kernel: which processes are gone, and which connections have ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from connection_governor.extension import NotedProcess, connections

if TYPE_CHECKING:
    from pathlib import Path


PROGRAM = """
import os, sys, time
from connection_governor.core.lease import Wanted
from connection_governor.client.lease_file import LeaseFile
notes = LeaseFile(sys.argv[1])
notes.wanted(Wanted("orders", "lease001", "checkout", 1, 1800000030000))
if sys.argv[2] == "fork" and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
print(0, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_process_is_gone_when_no_other_shares_its_sockets(tmp_path: Path, how: str) -> None:
    """The lease is released while a forked child still holds the connection."""
    path = os.pathsep.join(sys.path)
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), how], stdout=subprocess.PIPE, env={"PYTHONPATH": path}, text=True
    )
    with child:
        assert child.stdout is not None
        pids = [int(child.stdout.readline()) for _ in range(2 if how == "fork" else 1)]
        (notes,) = tmp_path.iterdir()
        process = NotedProcess(str(notes))
        assert not process.is_gone()
        child.kill()
        child.wait()
        if grandchild := max(pids):
            assert not process.is_gone()
            os.kill(grandchild, signal.SIGKILL)
    ends_at = time.monotonic() + 10  # the kernel lets go once the killed process has run to its end
    while not process.is_gone() and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert process.is_gone()
    assert len(process.notes()) == 1
    process.close()


def test_a_connection_has_ended_only_when_both_sides_have_closed() -> None:
    """A session that MySQL has not noticed to be over loses its lease."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        ports = (client.getsockname()[1], listener.getsockname()[1])
        assert ports in (connections() or ())
        client.close()
        assert ports in (connections() or ())
        server.close()
        ends_at = time.monotonic() + 5
        while ports in (connections() or {ports}) and time.monotonic() < ends_at:
            time.sleep(0.001)
        assert ports not in (connections() or {ports})
