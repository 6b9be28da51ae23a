"""Execution environments under the real Lambda Runtime Interface Emulator, with the layer at /opt."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql
import pytest

from harness.paths import ROOT
from harness.stack.processes import free_port, kill, start
from harness.stack.tools import tool
from tests.support.lambda_emulator import NAMESPACES, WORLD, LambdaEnvironment, inside, variables_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).parent
LAYER = ROOT / "layers" / "governor"
_EMULATED = (
    " exec {rie} --log-level warn --runtime-interface-emulator-address 127.0.0.1:{port}"
    " --runtime-api-address 127.0.0.1:{api} {python} -m awslambdaric app.handler"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: it needs the emulator."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("emulator")


@pytest.fixture(scope="session")
def rie() -> str:
    """Return the emulator's binary, as aws-sam-cli ships it."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets no unprivileged user make namespaces")
    packages = tool("sam", "sam").parent.parent
    binary = next(packages.glob("lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"))
    return inside(binary)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the content of /opt: the layer as its makefile builds it, and the function."""
    stage = tmp_path_factory.mktemp("opt")
    unwanted = shutil.ignore_patterns("__pycache__")
    for package in (LAYER / "connection_governor", Path(pymysql.__file__).parent):
        shutil.copytree(package, stage / "python" / package.name, ignore=unwanted)
    shutil.copytree(LAYER / "extensions", stage / "extensions")
    (stage / "function").mkdir()
    shutil.copy(FOLDER / "app.py", stage / "function")
    return stage


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
