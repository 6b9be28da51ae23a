"""Least privilege: each role may do what its code does, to what its code does it to."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.paths import ROOT
from tests.support.cloudformation import Given, listed, statements, walk

Node = dict[str, Any]
Resources = dict[str, Node]

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
LEASES = {"dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:UpdateItem"}
SECRET = {"secretsmanager:GetSecretValue"}
INVOKE = {"lambda:InvokeFunction"}
SIGN_IN = {"rds-db:connect"}
ALLOWED = {
    "GovernorRole": LOGS | LEASES,
    "WorkerRole": LOGS,  # and WorkerPolicy
    "WorkerPolicy": SECRET | INVOKE | LEASES | SIGN_IN,  # INVOKE or LEASES, by the transport; SIGN_IN with IamUser
    "JanitorRole": LOGS | LEASES | SECRET | {"dynamodb:PutItem"},
    "SeedRole": LOGS | LEASES | SECRET | {"dynamodb:PutItem", "kms:Decrypt"},  # the key of a brought secret
    "HarnessRole": LOGS | INVOKE,
}
ROLES = ALLOWED.keys() - {"WorkerPolicy"}


def _granted(resource: Node) -> set[str]:
    return {action for statement in statements(resource) for action in listed(statement["Action"])}


def test_each_function_has_a_role_of_its_own_from_this_template(functions: Resources) -> None:
    """A role that SAM makes carries managed policies on every resource of the account."""
    roles = {name: function["Role"] for name, function in functions.items()}
    assert roles == {name: {"Fn::GetAtt": [name.replace("Function", "Role"), "Arn"]} for name in functions}
    assert not any("Policies" in function for function in functions.values())


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_may_do_exactly_what_its_code_does(role: str, resources: Resources) -> None:
    """An action too many is what a broken-in function is worth to an attacker."""
    assert _granted(resources[role]) == ALLOWED[role]


def test_every_role_is_looked_at(resources: Resources) -> None:
    """A new role must be added to the list above, with what it may do."""
    assert {name for name, resource in resources.items() if resource["Type"] == "AWS::IAM::Role"} == ROLES


def test_the_table_s_actions_are_those_that_the_code_calls(resources: Resources) -> None:
    """An action that no code uses any more must be removed from the template."""
    source = (ROOT / "layers" / "governor" / "connection_governor" / "aws" / "dynamodb.py").read_text()
    called = {f"dynamodb:{name}" for name in re.findall(r'"((?:Batch)?(?:Get|Put|Update|Delete|Write)Item)"', source)}
    assert called == {action for role in ALLOWED for action in _granted(resources[role]) if "dynamodb" in action}


def _identities(resources: Resources) -> Resources:
    """Roles and policies, which grant; an endpoint's policy only limits what passes through it."""
    return {name: r for name, r in resources.items() if r["Type"] in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")}


def test_no_action_is_a_wildcard(resources: Resources) -> None:
    """`dynamodb:*` would let a worker delete the table."""
    assert not [action for r in _identities(resources).values() for action in _granted(r) if "*" in action]


def test_a_made_networks_endpoints_let_through_whatever_stays_in_the_account(resources: Resources) -> None:
    """Narrowed to this stack's table and secrets, they would deny a user's own function its own secret."""
    for name in ("DynamoDbEndpoint", "S3Endpoint", "SecretsEndpoint", "LambdaEndpoint"):
        within, *others = statements(resources[name])
        assert (within["Effect"], within["Action"], within["Resource"]) == ("Allow", "*", "*")
        assert within["Condition"] == {
            "StringEquals": {
                "aws:PrincipalAccount": {"Ref": "AWS::AccountId"},
                "aws:ResourceAccount": {"Ref": "AWS::AccountId"},
            }
        }
        assert [other["Action"] for other in others] == (["s3:PutObject"] if name == "S3Endpoint" else [])


def test_a_worker_reaches_the_leases_of_its_database_only(template: Node) -> None:
    """UpdateItem on the whole table would let any worker change the budget of every database."""
    given = Given(template, DatabaseName="orders")
    _, leases = statements(given.made()["WorkerPolicy"])
    assert leases["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["orders", "orders#*"]}}
    _, every = statements(Given(template, WorkerPolicyScope="table").made()["WorkerPolicy"])
    assert "Condition" not in every


def test_a_worker_signs_in_by_iam_as_one_user_of_one_instance(resources: Resources) -> None:
    """With a star it could sign in as the administrator, or to each database of the account."""
    policy = statements(resources["WorkerPolicy"])
    (sign_in,) = [statement for statement in policy if statement["Action"] == "rds-db:connect"]
    text, names = sign_in["Resource"]["Fn::Sub"]
    assert text == "arn:${AWS::Partition}:rds-db:${AWS::Region}:${AWS::AccountId}:dbuser:${Instance}/${IamUser}"
    made = {"Fn::GetAtt": ["Database", "DbiResourceId"]}
    assert names == {"Instance": {"Fn::If": ["MakeDatabase", made, {"Ref": "DatabaseResourceId"}]}}


def test_a_secrets_key_is_used_through_secrets_manager_only(template: Node) -> None:
    """The key may encrypt other things, which the seed has no business to read."""
    secret = {"DatabaseSecretArn": "arn:aws:secretsmanager:us-east-1:1:secret:x"}
    key = "arn:aws:kms:us-east-1:1:key/k"
    *_, decrypt = statements(Given(template, **secret, DatabaseSecretKmsKeyArn=key).made()["SeedRole"])
    assert (decrypt["Action"], decrypt["Resource"]) == ("kms:Decrypt", key)
    assert decrypt["Condition"]["StringEquals"]["kms:ViaService"].startswith("secretsmanager.us-east-1.")
    assert "kms:Decrypt" not in _granted(Given(template, **secret).made()["SeedRole"])


def test_a_wildcard_resource_stands_only_where_aws_has_no_other_way(resources: Resources) -> None:
    """Lambda's network interfaces: and there the functions' own code is denied the same actions."""
    wide = {
        name
        for name, resource in _identities(resources).items()
        for statement in statements(resource)
        if "*" in listed(statement["Resource"])
    }
    assert wide == {"NetworkInterfacesPolicy"}
    allow, deny = statements(resources["NetworkInterfacesPolicy"])
    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert allow["Action"] == deny["Action"]
    assert list(deny["Condition"]) == ["ArnEquals"]
    assert list(deny["Condition"]["ArnEquals"]) == ["lambda:SourceFunctionArn"]


def test_the_denial_names_every_function_in_the_network(resources: Resources, functions: Resources) -> None:
    """A function that is forgotten there could make network interfaces itself."""
    _, deny = statements(resources["NetworkInterfacesPolicy"])
    denied = {
        arn["Fn::Sub"].partition(":function:")[2] for arn in deny["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]
    }
    inside = {function["FunctionName"]["Fn::Sub"] for function in functions.values() if "VpcConfig" in function}
    assert denied == inside


def test_a_stars_place_in_an_arn_is_only_an_answers_random_key(resources: Resources) -> None:
    """`table/*` reaches every table; CloudFormation's answer bucket is the one place with an unknown key."""
    stars = {
        name
        for name, resource in resources.items()
        for statement in statements(resource)
        for node in walk(statement["Resource"])
        if isinstance(node, str) and "*" in node and node != "*"
    }
    assert stars == {"S3Endpoint"}


def test_a_secret_is_named_by_its_arn(resources: Resources) -> None:
    """`Ref` gives a secret's ARN on AWS, but only its name on the local stack, whose tests would then prove nothing."""
    secrets = {name for name, resource in resources.items() if resource["Type"] == "AWS::SecretsManager::Secret"}
    assert secrets
    assert not [node for node in walk(resources) if isinstance(node, dict) and node.get("Ref") in secrets]


def test_each_role_reads_its_own_secret_only(resources: Resources) -> None:
    """The worker's credentials must not lead to the administrator's."""

    def read(role: str) -> list[Any]:
        (allowed,) = (s["Resource"] for s in statements(resources[role]) if "secretsmanager" in str(s["Action"]))
        return listed(allowed)

    assert read("WorkerPolicy") == [{"Fn::GetAtt": ["WorkerSecret", "Id"]}]
    assert read("JanitorRole") == [{"Fn::GetAtt": ["MonitorSecret", "Id"]}]
    assert read("SeedRole")[1:] == read("WorkerPolicy") + read("JanitorRole")


def test_only_lambda_may_assume_the_roles(resources: Resources) -> None:
    """A role that others may assume is a door for them."""
    for role in ROLES:
        (trust,) = resources[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert (trust["Principal"], trust["Action"]) == ({"Service": "lambda.amazonaws.com"}, "sts:AssumeRole")
