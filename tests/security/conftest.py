"""The template as data, and the layers as sam's makefiles build them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.paths import ROOT, TEMPLATE
from harness.stack.tools import uv
from tests.support.cloudformation import NO_VALUE, load

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Return both layers, as their makefiles build them."""
    built = {}
    path = os.pathsep.join([str(Path(uv()).parent), os.environ["PATH"]])
    for folder, layer in (("governor", "GovernorLayer"), ("powertools", "PowertoolsLayer")):
        built[layer] = tmp_path_factory.mktemp(layer)
        subprocess.run(
            ["make", f"build-{layer}", f"ARTIFACTS_DIR={built[layer]}"],
            cwd=ROOT / "layers" / folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            check=True,
        )
    return built


def statements(resource: Node) -> Iterator[Node]:
    """Yield every policy statement of a role, policy or endpoint, also those that a condition chooses."""
    properties = resource["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
    for document in documents:
        for statement in [statement for chosen in _either(document) for statement in chosen["Statement"]]:
            yield from _either(statement)


def _either(node: Node) -> list[Node]:
    """Return a node as it stands, or those between which a condition chooses."""
    return [branch for branch in node.get("Fn::If", ["", node])[1:] if branch != NO_VALUE]


def listed(value: object) -> list[Any]:
    """Return a value that may stand alone or in a list, as a list."""
    return value if isinstance(value, list) else [value]


def walk(node: object) -> Iterator[object]:
    """Yield every node below this one, itself first."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)
