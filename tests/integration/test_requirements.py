"""What the layers install is what uv.lock names, and nothing that would tie a layer to one processor."""

import subprocess
from pathlib import Path

import pytest

from harness.paths import ROOT
from harness.stack.tools import uv

EXPORTS = {
    "layers/governor/requirements.txt": ["--no-emit-project", "--no-default-groups"],
    # boto3 is there in every Lambda runtime.
    # tzdata is for Windows.
    "layers/postgresql/requirements.txt": ["--only-group", "postgresql-driver", "--prune", "tzdata"],
    "layers/powertools/requirements.txt": ["--only-group", "functions", "--prune", "boto3"],
}


@pytest.mark.parametrize("path", EXPORTS)
def test_a_layers_requirements_are_those_of_the_lock_file(path: str) -> None:
    """Otherwise the tests run against other versions than those that are deployed."""
    command = [uv(), "export", "--frozen", "--offline", "--no-header", "--quiet", *EXPORTS[path]]
    exported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    again = f"uv export --locked --no-header {' '.join(EXPORTS[path])} > {path}"
    assert (ROOT / path).read_text() == exported, f"run: {again}"


def test_the_workers_layer_installs_pymysql_alone() -> None:
    """Every package more costs each worker's cold start, and may bring compiled code."""
    lines = Path(ROOT / "layers/governor/requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines if not line.startswith((" ", "#"))] == ["pymysql"]
