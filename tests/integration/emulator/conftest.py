"""Execution environments under the real Lambda Runtime Interface Emulator, with the layer at /opt.

Each has its own /opt, /tmp and process tree (namespaces of an unprivileged user): nothing on the machine changes, and
killing the first process is the end of the whole environment.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from harness.paths import ROOT, TOOLS
from harness.stack.processes import LOOPBACK, Server, free_port, kill, start
from harness.stack.tools import tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
LAYER = ROOT / "layers" / "governor"
TIMEOUT_S = 3
WORLD = (
    # The tools are reached below /opt: this checkout may itself stand below /tmp, which is about to be hidden.
    "mount -t tmpfs tmpfs /opt && cp -R {stage}/. /opt/ && mkdir /opt/tools && mount --bind "
    f"{TOOLS} /opt/tools && mount -t tmpfs tmpfs /tmp && cd /opt/function &&"
)
_EMULATED = (
    " exec {rie} --log-level warn --runtime-interface-emulator-address 127.0.0.1:{port}"
    " --runtime-api-address 127.0.0.1:{api} {python} -m awslambdaric app.handler"
)
NAMESPACES = ["unshare", "-Urmpf", "--mount-proc", "--kill-child"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: it needs the emulator."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("emulator")


@pytest.fixture(scope="session")
def rie() -> str:
    """Return the emulator's binary, as aws-sam-cli ships it."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no unprivileged user make namespaces")
    packages = tool("sam", "sam").parent.parent
    binary = next(packages.glob("lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"))
    return inside(binary)


def inside(program: Path) -> str:
    """Return where the environment finds one of the project's tools."""
    return str(Path("/opt/tools") / program.relative_to(TOOLS))


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the content of /opt: the layer as its makefile builds it, and the function."""
    stage = tmp_path_factory.mktemp("opt")
    unwanted = shutil.ignore_patterns("__pycache__")
    for package in (LAYER / "connection_governor", Path(pymysql.__file__).parent):
        shutil.copytree(package, stage / "python" / package.name, ignore=unwanted)
    shutil.copytree(LAYER / "extensions", stage / "extensions")
    (stage / "function").mkdir()
    shutil.copy(HERE / "app.py", stage / "function")
    return stage


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


@pytest.fixture
def environment(rie: str, stage: Path, tmp_path: Path) -> Iterator[Callable[..., LambdaEnvironment]]:
    """Start environments with these variables; end them after the test."""
    with ExitStack() as running:

        def started(*, extension: bool = True, **variables: str) -> LambdaEnvironment:
            port = free_port()
            own = tmp_path / "opt"
            shutil.copytree(stage, own, dirs_exist_ok=True)
            if ca := variables.pop("CA", None):
                shutil.copy(ca, own / "ca.pem")
            if not extension:
                shutil.rmtree(own / "extensions")
            python = inside(tool("rie", "python"))
            world = (WORLD + _EMULATED).format(stage=own, rie=rie, port=port, api=free_port(), python=python)
            server = start(
                "the emulator",
                [*NAMESPACES, "sh", "-c", world],
                log=tmp_path / "emulator.log",
                env=variables_of(variables),
            )
            running.callback(kill, server)
            one = LambdaEnvironment(server, port)
            one.wait_until_ready()
            return one

        yield started


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
