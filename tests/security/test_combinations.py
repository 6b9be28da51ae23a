"""Every combination of the parameters that shape a deployment: it works, or a rule refuses it before anything is made.

What fails is judged by what the template would make, not by its rules: a rule that is missing, or too strict, shows.
"""

from __future__ import annotations

import re
import ssl
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from botocore.session import Session

from connection_governor.database.authorities import RDS_BUNDLE
from harness.paths import ROOT
from tests.support.cloudformation import Given, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

Node = dict[str, Any]
Made = dict[str, Node]

HOST = "db.abc.us-east-1.rds.amazonaws.com"
SECRET = "arn:aws:secretsmanager:us-east-1:1:secret:admin"
UNCOVERED = "il-central-1"
CHOICES: dict[str, tuple[str, ...]] = {
    "CreateDatabase": ("true", "false"),
    "DatabaseEndpoint": ("", HOST),
    "DatabaseSecretArn": ("", SECRET),
    "VpcId": ("", "vpc-1"),
    "VpcSubnetIds": ("", "subnet-a,subnet-b"),
    "SecurityGroupId": ("", "sg-1"),
    "DatabaseSecurityGroupId": ("", "none", "sg-2"),
    "CreateEndpoints": ("auto", "true", "false"),
    "VpcCidr": ("", "10.0.0.0/16"),
    "DatabaseTls": ("verify", "off"),
}
SERVERS: dict[str, tuple[str, ...]] = {
    "DatabaseEngine": ("mysql", "postgresql"),
    "CreateDatabase": ("true", "false"),
    "DatabaseEndpoint": ("", HOST),
    "DatabaseSecretArn": ("", SECRET),
    "DatabaseTls": ("verify", "require", "off"),
    "DatabaseTlsCa": ("", "/opt/ca.pem"),
}
SIGN_IN: dict[str, tuple[str, ...]] = {
    "CreateDatabase": ("true", "false"),
    "DatabaseEndpoint": ("", HOST),
    "DatabaseSecretArn": ("", SECRET),
    "DatabaseTls": ("verify", "off"),
    "IamUser": ("", "shop"),
    "DatabaseResourceId": ("", "db-ABC123"),
}
NO_NETWORK = dict.fromkeys(("VpcId", "VpcSubnetIds", "SecurityGroupId", "DatabaseSecurityGroupId"), "")
GATEWAYS = {"DynamoDbEndpoint", "S3Endpoint"}


@cache
def bundled_regions() -> frozenset[str]:
    """Return the regions whose authorities are in the bundle, by its certificates and not by its comments."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(RDS_BUNDLE)
    subjects: list[dict[str, str]] = [dict(pair[0] for pair in a["subject"]) for a in context.get_ca_certs()]  # type: ignore[misc]
    found = (re.match(r"Amazon RDS ([a-z0-9-]+) Root CA", names.get("commonName", "")) for names in subjects)
    return frozenset(match[1] for match in found if match)


def failures(given: dict[str, str], region: str, made: Made) -> Iterator[str]:
    """Yield why this deployment would fail on AWS, or silently do without what was given."""
    yield from _database(made)
    yield from _network(given, made)
    yield from _engine(given, made)
    yield from _sign_in(given, made)
    tls, authority = given["DatabaseTls"], given["DatabaseTlsCa"]
    if "Database" in made and tls == "off":
        yield "the server refuses plain text"
    if tls == "verify" and not authority and region not in bundled_regions():
        yield "no authority for the server's certificate"


def _database(made: Made) -> Iterator[str]:
    seed = made["Seed"]["Properties"]
    its_own = "Database" in made
    host, secret = seed["Host"], seed["AdministratorSecretArn"]
    if its_own != (host == {"Fn::GetAtt": ["Database", "Endpoint.Address"]}):
        yield "an instance is paid for and not used, or none is there to be used"
    if its_own != (secret == {"Fn::GetAtt": ["Database", "MasterUserSecret.SecretArn"]}):
        yield "the instance's secret is not used, or is of an instance that is not made"


def _engine(given: dict[str, str], made: Made) -> Iterator[str]:
    """Yield where the parts of a deployment disagree about the kind of database."""
    engine = given["DatabaseEngine"]
    on_postgresql = engine == "postgresql"
    for name in ("WorkerFunction", "JanitorFunction", "SeedFunction"):
        function = made[name]["Properties"]
        if function["Environment"]["Variables"]["DB_ENGINE"] != engine:
            yield f"{name} speaks to another kind of database"
        if ({"Ref": "PostgresqlLayer"} in function["Layers"]) != on_postgresql:
            yield f"{name} has no driver, or one too many"
    if ("PostgresqlLayer" in made) != on_postgresql:
        yield "a layer is made and not used, or used and not made"
    if "Database" in made:
        group = made["Database"]["Properties"]["DBParameterGroupName"]["Ref"]
        family = made[group]["Properties"]["Family"]
        version = made["Database"]["Properties"]["EngineVersion"]
        if family != {"mysql": "mysql", "postgresql": "postgres"}[engine] + version:
            yield "RDS refuses a parameter group of another family"
    if str(made["Seed"]["Properties"]["Port"]) != {"mysql": "3306", "postgresql": "5432"}[engine]:
        yield "nothing listens there"


def _sign_in(given: dict[str, str], made: Made) -> Iterator[str]:
    """Yield why no worker could sign in by IAM, where one is to."""
    user, instance, its_own = given["IamUser"], given["DatabaseResourceId"], "Database" in made
    may = any(statement["Action"] == "rds-db:connect" for statement in statements(made["WorkerPolicy"]))
    if may != bool(user):
        yield "the policy knows another user"
    if user and not its_own and not instance:
        yield "the policy names no instance"
    if user and given["DatabaseTls"] == "off":
        yield "a token is not sent without TLS"
    if instance and (its_own or not user):
        yield "DatabaseResourceId is ignored"
    if its_own and made["Database"]["Properties"]["EnableIAMDatabaseAuthentication"] != bool(user):
        yield "the instance takes no tokens, or takes them for nothing"


def _network(given: dict[str, str], made: Made) -> Iterator[str]:
    seed = made["SeedFunction"]["Properties"]
    network = seed.get("VpcConfig")
    brought = given["VpcId"] != ""
    if network and "" in network["SubnetIds"]:
        yield "Lambda refuses a function without subnets"
    for name in ("VpcSubnetIds", "SecurityGroupId"):
        if given[name] and not (network and brought):
            yield f"{name} is ignored"
    if given["DatabaseSecurityGroupId"].startswith("sg-") and "DatabaseIngress" not in made:
        yield "DatabaseSecurityGroupId is ignored"
    if "Vpc" in made and not made.keys() >= GATEWAYS | {"SecretsEndpoint"}:
        yield "the seed reaches no AWS service"
    if given["CreateEndpoints"] == "true" and "SecretsEndpoint" not in made:
        yield "CreateEndpoints is ignored"
    ingress = made.get("EndpointsSecurityGroup", {}).get("Properties", {}).get("SecurityGroupIngress", [])
    if any(rule.get("CidrIp") == "" for rule in ingress):
        yield "EC2 refuses a rule without addresses"
    new_group = "FunctionsSecurityGroup" in made
    admitted = "Database" in made or "DatabaseIngress" in made or given["DatabaseSecurityGroupId"] == "none"
    if new_group and not admitted:
        yield "the database does not admit the functions"


@pytest.mark.parametrize(
    ("region", "choices", "working"),
    [
        ("us-east-1", CHOICES, 94),
        (UNCOVERED, SERVERS, 16),
        ("us-east-1", SERVERS, 20),
        ("us-east-1", SIGN_IN, 5),
    ],
)
def test_each_combination_works_or_is_refused_before_anything_is_made(
    region: str, choices: dict[str, tuple[str, ...]], working: int, template: Node
) -> None:
    """A combination that fails late costs 25 minutes, a database built in vain, and a stack to delete by hand."""
    works = 0
    for values in product(*choices.values()):
        chosen = dict(zip(choices, values, strict=True))
        given = Given(template, region=region, **chosen)
        defaults = {"DatabaseEngine": "mysql", "CreateEndpoints": "auto", "DatabaseTlsCa": "", **NO_NETWORK}
        defaults |= {"IamUser": "", "DatabaseResourceId": ""}
        why, refused = list(failures(defaults | chosen, region, given.made())), given.refusals()
        assert bool(why) == bool(refused), (chosen, why, refused)
        works += not why
    assert works == working


def test_the_regions_of_the_rule_are_those_of_the_bundle(template: Node) -> None:
    """A region too many fails after the database was built; one too few refuses what would work."""
    (assertion,) = template["Rules"]["AuthorityIsInTheBundle"]["Assertions"]
    regions, region = assertion["Assert"]["Fn::Contains"]
    assert (regions, region) == (sorted(bundled_regions()), {"Ref": "AWS::Region"})


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"WarmReadUnits": "12000", "WarmWriteUnits": "4000"}, []),
        ({"WarmReadUnits": "12000"}, ["WarmUnitsComeTogether"]),
        ({"WarmWriteUnits": "4000"}, ["WarmUnitsComeTogether"]),
        ({"WarmReadUnits": "11999", "WarmWriteUnits": "4000"}, ["WarmReadUnits"]),
        ({"WarmReadUnits": "100000", "WarmWriteUnits": "3999"}, ["WarmWriteUnits"]),
        ({"WorkerUser": "one", "MonitorUser": "one"}, ["UsersDiffer"]),
        ({"DatabaseTlsCaLayerArn": "arn:aws:lambda:us-east-1:1:layer:ca:1"}, ["AuthorityIsInItsLayer"]),
        ({"AvailabilityZones": "us-east-1b,us-east-1c"}, []),
        ({"RouteTableIds": "rtb-1"}, ["NetworkIsNamed"]),
        ({"HasS3Endpoint": "true"}, ["MadeNetworkHasItsEndpoints"]),
        ({"DatabaseSecretKmsKeyArn": "arn:aws:kms:us-east-1:1:key/k"}, ["KeyBelongsToASecret"]),
        ({"DatabaseEngineVersion": "8.0.40"}, ["DatabaseEngineVersion"]),
        ({"PostgresqlVersion": "16.4"}, ["PostgresqlVersion"]),
        ({"DatabasePort": "0"}, ["DatabasePort"]),
        ({"DatabaseEngine": "postgresql", "PythonRuntime": "python3.11"}, ["DriverFitsTheRuntime"]),
        ({"DatabaseEngine": "postgresql", "PythonRuntime": "python3.11", "Architecture": "x86_64"}, []),
        ({"KeepSeconds": "301"}, ["KeepSeconds"]),
        ({"DatabaseName": "a name"}, ["DatabaseName"]),
    ],
)
def test_what_goes_with_no_other_parameter_is_refused_too(
    parameters: dict[str, str], refused: list[str], template: Node
) -> None:
    """The same, for parameters that stand apart from the network and the database."""
    assert Given(template, CreateDatabase="true", **parameters).refusals() == refused


def test_zones_of_your_own_are_taken(template: Node) -> None:
    """The region's first two zones may not serve Lambda, and nothing but another zone helps then."""
    zones = {"AvailabilityZones": "us-east-1b,us-east-1c"}
    made = Given(template, CreateDatabase="true", **zones).made()
    assert [made[f"Subnet{x}"]["Properties"]["AvailabilityZone"] for x in "AB"] == ["us-east-1b", "us-east-1c"]
    own = {"VpcId": "vpc-1", "VpcSubnetIds": "subnet-a"}
    assert Given(template, CreateDatabase="true", **zones, **own).refusals() == ["NetworkIsWhole"]
    brought = {"DatabaseEndpoint": HOST, "DatabaseSecretArn": SECRET}
    assert Given(template, **brought, **zones).refusals() == ["ZonesAreOfAMadeNetwork"]


def test_endpoints_that_are_there_are_not_made_again(template: Node) -> None:
    """A second route for a service, or a second private name, fails the whole stack."""
    own = {"VpcId": "vpc-1", "VpcSubnetIds": "subnet-a", "RouteTableIds": "rtb-1", "VpcCidr": "10.0.0.0/16"}
    asked = {"CreateDatabase": "true", "CreateEndpoints": "true", "Transport": "lambda", **own}
    every = {"DynamoDbEndpoint", "S3Endpoint", "SecretsEndpoint", "LambdaEndpoint"}
    names = {f"Has{service}Endpoint": service for service in ("DynamoDb", "S3", "SecretsManager", "Lambda")}
    for parameter, service in names.items():
        made = Given(template, **asked, **{parameter: "true"}).made()
        assert every - made.keys() == {f"{service.removesuffix('Manager')}Endpoint"}
    none = Given(template, **asked, **dict.fromkeys(names, "true")).made()
    assert not none.keys() & (every | {"EndpointsSecurityGroup"})


def _documented() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| `([A-Z][^`]*=[^`]*)` \| (.*) \|$", (ROOT / "docs" / "aws.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    return rows


@pytest.mark.parametrize(("parameters", "outcome"), _documented())
def test_the_documented_outcome_is_the_real_one(parameters: str, outcome: str, template: Node) -> None:
    """An operator plans by that table."""
    given = Given(template, **dict(pair.split("=", 1) for pair in parameters.split()))
    named = re.match(r"rule (\w+)", outcome)
    assert given.refusals() == ([named[1]] if named else [])
    assert named or outcome.startswith("deploys")


def test_the_documented_regions_are_those_that_the_rule_refuses() -> None:
    """A region that botocore knows and the page does not mention would surprise its user."""
    regions = {region for region in Session().get_available_regions("rds") if region not in bundled_regions()}
    page = (ROOT / "docs" / "aws.md").read_text()
    page = page.replace("ap-southeast-5, -6 and -7", "ap-southeast-5, ap-southeast-6, ap-southeast-7")
    assert {region for region in regions if region not in page} == set()
