"""A template as CloudFormation sees it under given parameters: which rules refuse it, and which resources it makes.

Only the functions that this template uses. What it gives is compared with the local stack's in tests/stack.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from harness.package import TemplateLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Node = dict[str, Any]

NO_VALUE = {"Ref": "AWS::NoValue"}
ACCOUNT = "123456789012"


def load(path: Path) -> Node:
    """Return a template file as data, in long forms."""
    loaded: Node = yaml.load(path.read_text(), TemplateLoader)  # a SafeLoader
    return loaded


class Given:
    """A template under parameters.

    Args:
        template: as `load` returns it.
        region: where it is deployed.
        parameters: those that differ from the defaults.
    """

    def __init__(self, template: Node, *, region: str = "us-east-1", **parameters: str) -> None:
        unknown = parameters.keys() - template["Parameters"].keys()
        assert not unknown, unknown
        self._template = template
        self._texts = {name: str(p.get("Default", "")) for name, p in template["Parameters"].items()} | parameters
        self._pseudo = {
            "AWS::Region": region,
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::StackName": "s",
        }

    def refusals(self) -> list[str]:
        """Return the names of the parameters and rules for which CloudFormation refuses before it makes anything."""
        return [*self._bad_parameters(), *self._broken_rules()]

    def holds(self, condition: str) -> bool:
        """Return whether a condition of the template holds."""
        return self._true({"Condition": condition})

    def made(self) -> dict[str, Node]:
        """Return the resources that are made, their properties resolved as far as parameters tell."""
        resources: dict[str, Node] = self._template["Resources"]
        kept = {name: r for name, r in resources.items() if "Condition" not in r or self.holds(r["Condition"])}
        return {name: self.value(resource) for name, resource in kept.items()}

    def outputs(self) -> dict[str, Any]:
        """Return the values of the outputs that are given."""
        every: dict[str, Node] = self._template["Outputs"]
        kept = {name: o for name, o in every.items() if "Condition" not in o or self.holds(o["Condition"])}
        return {name: self.value(output["Value"]) for name, output in kept.items()}

    def value(self, node: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return a node with parameters and conditions resolved; a reference to a resource stays as it is."""
        if isinstance(node, list):
            return [each for each in map(self.value, node) if each != NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            resolve = self._functions().get(function)
            if resolve:
                return resolve(argument)
        resolved = {key: self.value(value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value != NO_VALUE}

    def _functions(self) -> dict[str, Callable[[Any], Any]]:
        return {
            "Ref": self._ref,
            "Fn::If": lambda a: self.value(a[1] if self.holds(a[0]) else a[2]),
            "Fn::Join": lambda a: self._join(a[0], self.value(a[1])),
            "Fn::Select": lambda a: self._select(int(a[0]), self.value(a[1])),
            "Fn::Sub": lambda a: self._sub(a) if isinstance(a, str) else {"Fn::Sub": a},
        }

    def _ref(self, name: str) -> Any:  # noqa: ANN401 - a text or a list
        if name in self._texts:
            is_list = self._template["Parameters"][name]["Type"] == "CommaDelimitedList"
            return self._texts[name].split(",") if is_list else self._texts[name]
        return self._pseudo.get(name, {"Ref": name})

    def _join(self, delimiter: str, parts: Any) -> Any:  # noqa: ANN401 - a text where all parts are known
        known = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
        return delimiter.join(parts) if known else {"Fn::Join": [delimiter, parts]}

    def _select(self, index: int, parts: Any) -> Any:  # noqa: ANN401 - the same
        return parts[index] if isinstance(parts, list) else {"Fn::Select": [index, parts]}

    def _sub(self, text: str) -> str:
        known = self._texts | self._pseudo
        return re.sub(r"\$\{([\w:]+)\}", lambda found: known.get(found[1], found[0]), text)

    def _true(self, node: Node) -> bool:
        ((function, argument),) = node.items()
        if function == "Condition":
            return self._true(self._template["Conditions"][argument])
        if function in ("Fn::Equals", "Fn::Contains", "Fn::EachMemberEquals", "Fn::EachMemberIn"):
            left, right = (self.value(side) for side in argument)
            if function == "Fn::Equals":
                return bool(left == right)
            if function == "Fn::Contains":
                return right in left
            return all(member == right if function == "Fn::EachMemberEquals" else member in right for member in left)
        assert function in ("Fn::And", "Fn::Or", "Fn::Not"), function
        assert len(argument) == 1 if function == "Fn::Not" else 2 <= len(argument) <= 10, "CloudFormation's limits"
        each = [self._true(part) for part in argument]
        return {"Fn::And": all(each), "Fn::Or": any(each), "Fn::Not": not each[0]}[function]

    def _bad_parameters(self) -> Iterator[str]:
        for name, parameter in self._template["Parameters"].items():
            text = self._texts[name]
            members = text.split(",") if parameter["Type"] == "CommaDelimitedList" else [text]
            allowed = parameter.get("AllowedValues")
            fits = not allowed or all(member in map(str, allowed) for member in members)
            fits &= bool(re.fullmatch(parameter.get("AllowedPattern", ".*"), text, re.DOTALL))
            if parameter["Type"] == "Number":
                fits &= (
                    float(parameter.get("MinValue", "-inf")) <= float(text) <= float(parameter.get("MaxValue", "inf"))
                )
            if not fits:
                yield name

    def _broken_rules(self) -> Iterator[str]:
        for name, rule in self._template["Rules"].items():
            applies = "RuleCondition" not in rule or self._true(rule["RuleCondition"])
            if applies and not all(self._true(assertion["Assert"]) for assertion in rule["Assertions"]):
                yield name


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
