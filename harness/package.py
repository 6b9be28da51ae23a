"""`make package`: what a release ships, to deploy without sam: a plain template, the code, and checksums.

The template takes as a parameter the bucket to which the folder was copied. It has no YAML aliases, since
CloudFormation refuses them. The same sources give the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import StackError
from harness.paths import BUILD, ROOT
from harness.stack.deployment import build_template

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = BUILD / "package"
CODE = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}
PARAMETERS = {
    "ArtifactsBucket": {
        "Type": "String",
        "Description": "The bucket, in this region, that holds the release.",
    },
    "ArtifactsPrefix": {
        "Type": "String",
        "Default": "",
        "AllowedPattern": "|.+/",
        "Description": "The folder in that bucket, with a slash at its end. Empty, the bucket itself.",
    },
}
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file knows

Node = dict[str, Any]


class _Plain(yaml.SafeDumper):
    """Writes each node in full, however often it occurs."""

    def ignore_aliases(self, _data: object) -> bool:
        """Return that no node is named, to be referred to later."""
        return True


class TemplateLoader(yaml.SafeLoader):
    """Reads CloudFormation's short forms (`!Ref x`) as their long ones (`{"Ref": x}`)."""


def _long_form(loader: TemplateLoader, suffix: str, node: yaml.Node) -> Node:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        value = value.split(".", 1) if suffix == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        raise StackError(f"the built template holds a mapping behind !{suffix}")
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


TemplateLoader.add_multi_constructor("!", _long_form)


def package(built: Path, folder: Path) -> Path:
    """Write template, code and checksums of a built template to a folder; return the template's path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    template: Node = yaml.load(built.read_text(), TemplateLoader)  # noqa: S506 - a SafeLoader
    template["Parameters"] = PARAMETERS | template["Parameters"]
    template["Resources"] = {
        name: _packaged(name, resource, built.parent, folder) for name, resource in template["Resources"].items()
    }
    written = folder / "template.yaml"
    written.write_text(yaml.dump(template, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True))
    shutil.copy(ROOT / "LICENSE", folder)
    sums = [f"{_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return written


def _packaged(name: str, resource: Node, built: Path, folder: Path) -> Node:
    """Return a resource whose code, if any, is an archive in the bucket."""
    field = CODE.get(resource["Type"])
    if field is None:
        return resource
    archive = _archive(name, built / resource["Properties"][field], folder)
    place = {"Bucket": {"Ref": "ArtifactsBucket"}, "Key": {"Fn::Sub": "${ArtifactsPrefix}" + archive.name}}
    return {**resource, "Properties": {**resource["Properties"], field: place}}


def _archive(name: str, source: Path, folder: Path) -> Path:
    """Return the zip of a code folder, named by its content, so that CloudFormation sees a new version."""
    draft = folder / "draft.zip"
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(source)), _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
            archive.writestr(entry, path.read_bytes())
    base = name.replace("Layer", "-layer").lower() if name.endswith("Layer") else "functions"
    return draft.replace(folder / f"{base}-{_digest(draft)[:16]}.zip")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Build and package."""
    written = package(build_template(), FOLDER)
    print(f"{written.relative_to(ROOT)} and its code; see docs/deploy.md#without-sam")
    return 0
