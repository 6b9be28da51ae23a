"""Execution environments in namespaces of their own: where their tools stand, what they inherit, how to talk to one.

Each has its own /opt, /tmp and process tree (namespaces of an unprivileged user): nothing on the machine changes, and
killing the first process is the end of the whole environment.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.paths import TOOLS
from harness.stack.processes import LOOPBACK

if TYPE_CHECKING:
    from harness.stack.processes import Server


TIMEOUT_S = 3
WORLD = (
    # The tools are reached below /opt: this checkout may itself stand below /tmp, which is about to be hidden.
    "mount -t tmpfs tmpfs /opt && cp -R {stage}/. /opt/ && mkdir /opt/tools && mount --bind "
    f"{TOOLS} /opt/tools && mount -t tmpfs tmpfs /tmp && cd /opt/function &&"
)
NAMESPACES = ["unshare", "-Urmpf", "--mount-proc", "--kill-child"]


def inside(program: Path) -> str:
    """Return where the environment finds one of the project's tools."""
    return str(Path("/opt/tools") / program.relative_to(TOOLS))


class LambdaEnvironment:
    """One execution environment."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self._port = port

    def invoke(self, act: str, **event: object) -> tuple[int, str]:
        """Invoke the function: the HTTP status and the body of the answer."""
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            connection.request("POST", "/2015-03-31/functions/function/invocations", json.dumps({"act": act, **event}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def terminate(self) -> float:
        """Shut it down in good order, as Lambda does with an idle one; how many seconds it took."""
        since = time.monotonic()
        os.kill(self.emulator_pid(), signal.SIGTERM)
        self.server.process.wait(timeout=10)
        return time.monotonic() - since

    def emulator_pid(self) -> int:
        """Return the emulator itself: the only child of the process that made the namespaces."""
        pid = self.server.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def wait_until_ready(self) -> None:
        """Wait until it accepts requests."""
        since = time.monotonic()
        while time.monotonic() - since < 20:
            with suppress(OSError), socket.create_connection((LOOPBACK, self._port), timeout=1):
                return
            time.sleep(0.05)
        raise AssertionError(self.server.log.read_text())


def variables_of(variables: dict[str, str]) -> dict[str, Any]:
    """Return the variables of an execution environment, and these."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/tmp",
        "PYTHONPATH": "/opt/python",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(TIMEOUT_S),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": "checkout",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        **variables,
    }
