"""The template as data, and the layers as sam's makefiles build them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.paths import ROOT, TEMPLATE
from harness.stack.tools import uv

if TYPE_CHECKING:
    from collections.abc import Iterator

Node = dict[str, Any]

NO_VALUE = {"Ref": "AWS::NoValue"}


class TemplateLoader(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref x`) as their long ones (`{"Ref": x}`)."""


def _long_form(loader: TemplateLoader, suffix: str, node: yaml.Node) -> Node:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        value = value.split(".", 1) if suffix == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


TemplateLoader.add_multi_constructor("!", _long_form)


@pytest.fixture(scope="session")
def template() -> Node:
    """Return template.yaml as data."""
    loaded: Node = yaml.load(TEMPLATE.read_text(), TemplateLoader)  # a SafeLoader
    return loaded


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


def holds(template: Node, condition: str, **given: str) -> bool:
    """Return whether a condition of the template holds with these parameters, and the defaults of the others."""
    defaults = {name: str(parameter.get("Default", "")) for name, parameter in template["Parameters"].items()}
    return _true(template, {"Condition": condition}, defaults | given)


def _true(template: Node, node: Node, given: dict[str, str]) -> bool:
    ((function, argument),) = node.items()
    if function == "Condition":
        return _true(template, template["Conditions"][argument], given)
    if function == "Fn::Equals":
        left, right = (_text(side, given) for side in argument)
        return left == right
    each = [_true(template, part, given) for part in argument]
    return {"Fn::And": all(each), "Fn::Or": any(each), "Fn::Not": not each[0]}[function]


def _text(node: object, given: dict[str, str]) -> str:
    if not isinstance(node, dict):
        return str(node)
    return given[node["Ref"]] if "Ref" in node else "".join(_text(node["Fn::Join"][1], given))


def listed(value: object) -> list[Any]:
    """Return a value that may stand alone or in a list, as a list."""
    return value if isinstance(value, list) else [value]


def walk(node: object) -> Iterator[object]:
    """Yield every node below this one, itself first."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)
