"""The template as data, and the layers as sam's makefiles build them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.paths import ROOT, TEMPLATE
from harness.stack.tools import uv
from tests.support.cloudformation import load

Node = dict[str, Any]


@pytest.fixture(scope="session")
def template() -> Node:
    """Return template.yaml as data."""
    return load(TEMPLATE)


@pytest.fixture(scope="session")
def resources(template: Node) -> dict[str, Node]:
    """Return its resources by logical id."""
    found: dict[str, Node] = template["Resources"]
    return found


@pytest.fixture(scope="session")
def functions(resources: dict[str, Node]) -> dict[str, Node]:
    """Return the properties of its functions by logical id."""
    return {
        name: resource["Properties"]
        for name, resource in resources.items()
        if resource["Type"] == "AWS::Serverless::Function"
    }


@pytest.fixture(scope="session")
def built_layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the layers, as their makefiles build them."""
    built = {}
    path = os.pathsep.join([str(Path(uv()).parent), os.environ["PATH"]])
    for folder, layer in (
        ("governor", "GovernorLayer"),
        ("powertools", "PowertoolsLayer"),
        ("postgresql", "PostgresqlLayer"),
    ):
        built[layer] = tmp_path_factory.mktemp(layer)
        subprocess.run(
            ["make", f"build-{layer}", f"ARTIFACTS_DIR={built[layer]}"],
            cwd=ROOT / "layers" / folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            check=True,
        )
    return built
