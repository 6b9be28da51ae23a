"""What is shipped for deployments without sam, and the examples and commands that use it."""

from __future__ import annotations

import hashlib
import re
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import connection_governor
from harness.package import package
from harness.paths import ROOT
from tests.support.cloudformation import Given

if TYPE_CHECKING:
    from pathlib import Path

Node = dict[str, Any]

BUILT = """
Parameters: {Name: {Type: String}}
Resources:
  GovernorLayer:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: GovernorLayer}
  One: &function
    Type: AWS::Serverless::Function
    Properties: {CodeUri: Functions, Handler: !Sub '${Name}.handler', Role: !GetAtt Role.Arn}
  Two: *function
"""
DOCUMENTS = [ROOT / "docs" / "deploy.md", ROOT / "docs" / "operations.md", ROOT / "docs" / "aws.md"]
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:orders-AbCdEf"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Return a template as sam builds it, with code beside it."""
    (tmp_path / "Functions").mkdir()
    (tmp_path / "Functions" / "one.py").write_text("1")
    (tmp_path / "GovernorLayer" / "extensions").mkdir(parents=True)
    extension = tmp_path / "GovernorLayer" / "extensions" / "release"
    extension.write_text("#!/bin/sh")
    extension.chmod(0o755)
    (tmp_path / "template.yaml").write_text(BUILT)
    return tmp_path / "template.yaml"


def test_a_package_is_plain_and_names_its_code_by_content(built: Path, tmp_path: Path) -> None:
    """CloudFormation refuses YAML aliases; and code under an old key would never be deployed."""
    written = package(built, tmp_path / "package")
    assert not re.search(r"[:-] [&*]\w+|!\w+", written.read_text())
    template = yaml.safe_load(written.read_text())
    one, two = (template["Resources"][name]["Properties"]["CodeUri"] for name in ("One", "Two"))
    assert one == two
    assert one["Bucket"] == {"Ref": "ArtifactsBucket"}
    key = one["Key"]["Fn::Sub"].removeprefix("${ArtifactsPrefix}")
    assert (written.parent / key).exists()
    (built.parent / "Functions" / "one.py").write_text("2")
    again = yaml.safe_load(package(built, tmp_path / "package").read_text())
    assert again["Resources"]["One"]["Properties"]["CodeUri"] != one


def test_the_same_sources_make_the_same_bytes(built: Path, tmp_path: Path) -> None:
    """Otherwise nobody can check a release against its sources."""
    sums = [(package(built, tmp_path / name).parent / "SHA256SUMS").read_text() for name in ("one", "two")]
    assert sums[0] == sums[1]
    for line in sums[0].splitlines():
        digest, name = line.split()
        assert hashlib.sha256((tmp_path / "one" / name).read_bytes()).hexdigest() == digest


def test_an_extension_stays_executable(built: Path, tmp_path: Path) -> None:
    """Lambda ignores one that is not, in silence."""
    folder = package(built, tmp_path / "package").parent
    (layer,) = folder.glob("governor-layer-*.zip")
    entry = zipfile.ZipFile(layer).getinfo("extensions/release")
    assert (entry.external_attr >> 16) & 0o777 == 0o755


def _example(name: str) -> dict[str, str]:
    """Return the template's parameters that an example gives, with values for what it leaves to its user."""
    text = (ROOT / "examples" / name).read_text()
    block = re.search(r"parameters\s*[=:] \{(.*?)\n  \}", text, re.DOTALL)
    assert block
    given = {key: value.strip('",') for key, value in re.findall(r"(\w+)\s*[=:] (.*)", block[1])}
    own = {"ArtifactsBucket", "ArtifactsPrefix"}
    filled = {"database_secret_arn": SECRET, "database_security_group_id": "sg-1", "subnet_ids": "subnet-a"}
    return {
        key: next((v for k, v in filled.items() if k in value), value) for key, value in given.items() if key not in own
    }


@pytest.mark.parametrize("name", ["cdk/app.js", "terraform/main.tf"])
def test_an_examples_parameters_are_taken_and_its_outputs_given(name: str, template: Node) -> None:
    """An example that fails is worse than none."""
    given = Given(template, **_example(name))
    assert len(_example(name)) >= 6
    assert given.refusals() == []
    text = (ROOT / "examples" / name).read_text()
    asked = set(re.findall(r'output\("(\w+)"\)|outputs\["(\w+)"\]', text))
    assert asked
    assert {one or other for one, other in asked} <= given.outputs().keys()


def test_the_curious_ones_configuration_is_taken(template: Node) -> None:
    """The first command that a newcomer runs."""
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())["demo"]["deploy"]["parameters"]
    parameters = dict(pair.split("=") for pair in settings["parameter_overrides"].split())
    given = Given(template, **parameters)
    assert given.refusals() == []
    assert {"Vpc", "Database", "WorkerFunction", "HarnessFunction"} <= given.made().keys()


def test_the_documents_name_parameters_and_outputs_that_there_are(template: Node) -> None:
    """A renamed parameter is refused by sam, after the reader has typed all of it."""
    known = template["Parameters"].keys() | template["Outputs"].keys() | {"ArtifactsBucket", "ArtifactsPrefix"}
    known |= {"ParameterKey", "ParameterValue"}  # the AWS CLI's own words
    for document in DOCUMENTS:
        text = document.read_text()
        named = set(re.findall(r"\b([A-Z][A-Za-z]+[a-z])=", text)) | set(re.findall(r"output `([A-Z]\w+)`", text))
        assert named <= known, document.name


def test_the_repositorys_metadata_is_of_this_version(template: Node) -> None:
    """The Serverless Application Repository would publish an old version's number."""
    metadata = template["Metadata"]["AWS::ServerlessRepo::Application"]
    assert metadata["SemanticVersion"] == connection_governor.__version__
    assert (ROOT / metadata["LicenseUrl"]).exists()
    assert (ROOT / metadata["ReadmeUrl"]).exists()
