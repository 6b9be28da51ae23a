"""What the template must never say, and what it must."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connection_governor.client.keepalive import LONGEST_KEEP_S
from connection_governor.metrics import METRICS, NAMESPACE, Reporter, gauges
from connection_governor.server.mysql import statement_limit
from harness.paths import ROOT, TEMPLATE
from harness.stack.tools import tool
from tests.support.cloudformation import NO_VALUE, Given, walk

Node = dict[str, Any]
Resources = dict[str, Node]

OUTPUTS = [
    "GovernorFunctionName",
    "WorkerFunctionName",
    "HarnessFunctionName",
    "JanitorFunctionName",
    "TableName",
    "DashboardName",
    "LayerArn",
    "PostgresqlLayerArn",
    "DatabaseEndpoint",
    "FunctionsSecurityGroupId",
    "SubnetIds",
    "WorkerSecretArn",
    "WorkerPolicyArn",
]


def test_cfn_lint_finds_nothing() -> None:
    """A property that AWS refuses shows at deployment, in the middle of a rollback."""
    command = [Path(sys.executable).with_name("cfn-lint"), TEMPLATE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sam_validates_it() -> None:
    """A template that sam refuses cannot be deployed."""
    command = [str(tool("sam", "sam")), "validate", "--lint", "--template-file", str(TEMPLATE), "--region", "us-east-1"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(ROOT / "build"), "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_password_is_a_parameter_or_in_an_environment(template: Node, functions: Resources) -> None:
    """Every user who may view the stack or the function sees parameters and environments."""
    parameters = [name for name in template["Parameters"] if re.search("password|passwd|token", name, re.IGNORECASE)]
    variables = [name for f in functions.values() for name in f.get("Environment", {}).get("Variables", {})]
    assert not parameters
    assert not [name for name in variables if re.search("password|passwd|token|user$|username", name, re.IGNORECASE)]
    assert "{{resolve:" not in TEMPLATE.read_text()


def test_passwords_are_made_by_secrets_manager(resources: Resources) -> None:
    """A password that a person chose is known to a person."""
    for name in ("WorkerSecret", "MonitorSecret"):
        assert resources[name]["Properties"]["GenerateSecretString"]["PasswordLength"] >= 32
    database = resources["Database"]["Properties"]
    assert database["ManageMasterUserPassword"] is True
    assert "MasterUserPassword" not in database


def test_a_database_that_is_made_is_private_encrypted_and_kept_as_a_snapshot(resources: Resources) -> None:
    """Deleting the stack must not delete the only copy of the data."""
    database = resources["Database"]
    properties = database["Properties"]
    assert (properties["PubliclyAccessible"], properties["StorageEncrypted"]) == (False, True)
    assert (database["DeletionPolicy"], database["UpdateReplacePolicy"]) == ("Snapshot", "Snapshot")
    parameters = resources["DatabaseParameters"]["Properties"]["Parameters"]
    assert (parameters["performance_schema"], parameters["require_secure_transport"]) == (1, 1)


def test_a_made_postgresql_refuses_plain_text_and_ends_no_others_sessions(template: Node) -> None:
    """PostgreSQL has no REQUIRE SSL for one role; and an idle limit for all would end a pool's sessions, or a psql."""
    made = Given(template, CreateDatabase="true", DatabaseEngine="postgresql").made()
    assert "DatabaseParameters" not in made
    parameters = made["PostgresqlParameters"]["Properties"]["Parameters"]
    assert parameters["rds.force_ssl"] == 1
    assert not [name for name in parameters if name.startswith(("idle_", "statement_timeout", "lock_timeout"))]
    database = made["Database"]["Properties"]
    assert (database["Engine"], database["EnableCloudwatchLogsExports"]) == ("postgres", ["postgresql"])


def test_mysql_and_the_endpoints_are_reached_by_the_functions_only(resources: Resources) -> None:
    """An open security group is a database on the network of everyone."""
    for name in ("DatabaseSecurityGroup", "EndpointsSecurityGroup"):
        rule, *others = resources[name]["Properties"]["SecurityGroupIngress"]
        assert "SourceSecurityGroupId" in rule
        assert "CidrIp" not in rule
        assert [other["Fn::If"][:2] for other in others] == [["MakeNetwork", NO_VALUE]] * len(others)
    assert "SecurityGroupIngress" not in resources["FunctionsSecurityGroup"]["Properties"]
    kinds = {resource["Type"] for resource in resources.values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway"}


OWN = {"VpcId": "vpc-1", "RouteTableIds": "rtb-1"}
MADE = {"CreateDatabase": "true"}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (MADE, True),
        (MADE | {"CreateEndpoints": "true"}, True),
        (MADE | {"CreateEndpoints": "false"}, False),
        (OWN, False),
        (OWN | MADE, False),
        (OWN | {"CreateEndpoints": "true"}, True),
        (OWN | {"CreateEndpoints": "false"}, False),
        ({"CreateEndpoints": "true"}, False),
    ],
)
def test_a_users_network_gets_endpoints_only_where_asked(given: dict[str, str], made: bool, template: Node) -> None:
    """An endpoint takes its service's traffic of the whole network: others there would be cut off by a deployment."""
    endpoints = {"DynamoDbEndpoint", "S3Endpoint", "SecretsEndpoint", "LambdaEndpoint"}
    assert Given(template, **given, Transport="lambda").made().keys() & endpoints == (endpoints if made else set())


def test_endpoints_in_a_users_network_serve_the_whole_network(template: Node, resources: Resources) -> None:
    """Narrowed to this stack's table and secrets, they would break every other program in that network."""
    endpoints = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::EC2::VPCEndpoint"}
    assert len(endpoints) == 4
    for properties in endpoints.values():
        condition, narrow, otherwise = properties["PolicyDocument"]["Fn::If"]
        assert (condition, otherwise) == ("MakeNetwork", NO_VALUE)
        assert narrow["Statement"]
    _, everybody = resources["EndpointsSecurityGroup"]["Properties"]["SecurityGroupIngress"]
    assert everybody["Fn::If"][2]["CidrIp"] == {"Ref": "VpcCidr"}
    rule = template["Rules"]["EndpointsAdmitTheWholeNetwork"]
    assert rule["Assertions"][0]["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "VpcCidr"}, ""]}]}


def test_nothing_is_kept_for_longer_than_the_layer_takes(template: Node) -> None:
    """A value that the template takes and the layer refuses fails every invocation of the worker."""
    assert template["Parameters"]["KeepSeconds"]["MaxValue"] == LONGEST_KEEP_S


def test_lambda_never_repeats_the_seed_or_a_round(functions: Resources) -> None:
    """A seed that is tried again after it failed would be applied after CloudFormation has rolled back."""
    for name in ("SeedFunction", "JanitorFunction"):
        assert functions[name]["EventInvokeConfig"]["MaximumRetryAttempts"] == 0
    assert functions["JanitorFunction"]["EventInvokeConfig"]["MaximumEventAgeInSeconds"] == 60


def test_the_janitor_watches_the_users_of_an_operators_own_functions(functions: Resources) -> None:
    """Sessions of a user that it does not know are never counted, and never ended when their lease has expired."""
    watched = functions["JanitorFunction"]["Environment"]["Variables"]["DB_WORKER_USERS"]
    both = {"Fn::Sub": "${WorkerUser},${GovernedUsers}"}
    assert watched == {"Fn::If": ["HasGovernedUsers", both, {"Ref": "WorkerUser"}]}


def test_a_release_with_another_event_runs_the_seed(resources: Resources) -> None:
    """CloudFormation runs the seed only if a property has changed: an old event would stay, and the alarm be raised."""
    seed = resources["Seed"]["Properties"]
    assert seed["StatementLimit"] == statement_limit.VERSION
    assert seed["GovernedUsers"] == {"Ref": "GovernedUsers"}  # checked for a right that the event cannot overcome


def test_the_event_runs_on_a_database_that_is_made(resources: Resources) -> None:
    """Without the scheduler, or without the server's own list of statements, only a SELECT has a time limit."""
    parameters = resources["DatabaseParameters"]["Properties"]["Parameters"]
    assert (parameters["event_scheduler"], parameters["performance_schema"]) == ("ON", 1)


@pytest.mark.parametrize(
    ("users", "valid"), [("", True), ("shop", True), ("shop,pay-1", True), ("shop, pay", False), ("shop,", False)]
)
def test_governed_users_are_names_with_commas_between(users: str, valid: bool, template: Node) -> None:
    """A blank would become part of a name that no session has."""
    pattern = template["Parameters"]["GovernedUsers"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, users)) is valid


def test_the_seed_answers_or_has_failed_before_cloudformation_gives_up(
    resources: Resources, functions: Resources
) -> None:
    """A run that begins late must end in time: applied later, it would undo the rollback. An hour is the default."""
    patience = resources["Seed"]["Properties"]["ServiceTimeout"]
    latest_start = functions["SeedFunction"]["EventInvokeConfig"]["MaximumEventAgeInSeconds"]
    assert latest_start >= 300  # Lambda needs minutes to give an inactive function its network interface back
    assert latest_start + functions["SeedFunction"]["Timeout"] < patience <= 900


def test_the_seed_is_invoked_often_enough_to_stay_active(functions: Resources) -> None:
    """Lambda takes the network interface from a function that is idle for weeks; the next deployment would fail."""
    event = functions["SeedFunction"]["Events"]["KeepActive"]["Properties"]
    assert event["Schedule"] == "rate(1 day)"
    assert json.loads(event["Input"]) == {"RequestType": "KeepActive"}


def test_powertools_stays_out_of_the_worker(functions: Resources) -> None:
    """It costs each cold start more than everything else that a worker imports."""
    with_it = {name for name, f in functions.items() if {"Ref": "PowertoolsLayer"} in f.get("Layers", [])}
    assert with_it == {"GovernorFunction", "JanitorFunction", "SeedFunction"}


def test_every_log_is_kept_for_a_time(resources: Resources, functions: Resources) -> None:
    """A log group that Lambda creates by itself is kept, and billed, without end."""
    for name, function in functions.items():
        logs = resources[function["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
        assert logs["RetentionInDays"] == {"Ref": "LogRetentionDays"}, name


def test_the_outputs_are_those_of_the_contract(template: Node) -> None:
    """Other programs read them by name."""
    assert list(template["Outputs"]) == OUTPUTS


def test_no_output_has_the_name_of_a_list_parameter(template: Node) -> None:
    """`sam build` breaks down on it with a TypeError, which `sam validate` does not see."""
    lists = {name for name, p in template["Parameters"].items() if p["Type"] == "CommaDelimitedList"}
    assert not lists & template["Outputs"].keys()


def test_a_condition_or_parameter_that_nothing_uses_is_a_mistake(template: Node) -> None:
    """A parameter without effect is a promise to the operator that is not kept."""
    text = TEMPLATE.read_text()
    unused = [name for name in template["Parameters"] if not re.search(rf"!Ref {name}\b|\$\{{{name}\}}", text)]
    assert unused == []


def _dashboard(resources: Resources) -> Node:
    body = resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    shown: Node = json.loads(body.replace("${AllowedConnections}", "50"))
    return shown


def test_the_dashboard_shows_metrics_that_the_code_emits(resources: Resources) -> None:
    """CloudWatch takes any name, and draws nothing for one that is wrong."""
    shown = {tuple(metric[:3]) for w in _dashboard(resources)["widgets"] for metric in w["properties"]["metrics"]}
    assert {(namespace, dimension) for namespace, _, dimension in shown} == {(NAMESPACE, "DBName")}
    assert {name for _, name, _ in shown} == METRICS.keys()


def test_the_dashboard_opens_with_remaining_left_and_refusals_right(resources: Resources) -> None:
    """The published sample's picture, which its users know."""
    first = _dashboard(resources)["widgets"][0]["properties"]
    axes = {metric[1]: metric[-1].get("yAxis", "left") for metric in first["metrics"]}
    assert axes == {"Remaining Connections": "left", "NoConnLeftError": "right"}
    assert first["yAxis"]["left"]["label"] == "Remaining Connections"
    assert first["yAxis"]["right"]["label"] == "No Connections Left"


def test_widgets_do_not_overlap_and_fit_the_page(resources: Resources) -> None:
    """CloudWatch moves overlapping widgets to unintended places."""
    taken: set[tuple[int, int]] = set()
    for widget in _dashboard(resources)["widgets"]:
        cells = {
            (widget["x"] + column, widget["y"] + row)
            for column in range(widget["width"])
            for row in range(widget["height"])
        }
        assert not cells & taken
        assert max(column for column, _ in cells) < 24
        taken |= cells


def test_alarms_watch_metrics_that_are_emitted_and_tell_the_topic(resources: Resources) -> None:
    """An alarm on a misspelt metric never rings."""
    alarms = [r["Properties"] for r in resources.values() if r["Type"] == "AWS::CloudWatch::Alarm"]
    own = {alarm["MetricName"] for alarm in alarms if alarm["Namespace"] == NAMESPACE}
    assert {"NoConnLeftError", "Remaining Connections"} <= own <= METRICS.keys()
    assert all(alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}] for alarm in alarms)


def test_a_silent_janitor_rings(template: Node) -> None:
    """No invocation is no data point: what counts missing data as fine never rings for a janitor that stopped."""
    alarm = Given(template, CreateDatabase="true").made()["JanitorSilentAlarm"]["Properties"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Lambda", "Invocations")
    assert alarm["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "JanitorFunction"}}]
    assert (alarm["TreatMissingData"], alarm["ComparisonOperator"]) == ("breaching", "LessThanThreshold")
    assert "JanitorSilentAlarm" not in Given(template, CreateDatabase="true", JanitorState="DISABLED").made()


def test_every_other_alarm_takes_missing_data_for_calm(resources: Resources) -> None:
    """A database that nobody uses emits little: an alarm that rings each night is switched off."""
    alarms = {name: r["Properties"] for name, r in resources.items() if r["Type"] == "AWS::CloudWatch::Alarm"}
    calm = {name for name, alarm in alarms.items() if alarm["TreatMissingData"] == "notBreaching"}
    assert alarms.keys() - calm == {"JanitorSilentAlarm"}
    assert all(alarm["Period"] == 60 for alarm in alarms.values())  # shorter periods cost three times as much


def test_a_made_database_is_in_standard_support_and_takes_the_preferred_minor_version(template: Node) -> None:
    """Extended Support costs more than the instance; a minor version that RDS has retired cannot be made at all."""
    made = Given(template, CreateDatabase="true").made()
    database = made["Database"]["Properties"]
    assert database["EngineLifecycleSupport"] == "open-source-rds-extended-support-disabled"
    assert (database["EngineVersion"], made["DatabaseParameters"]["Properties"]["Family"]) == ("8.4", "mysql8.4")
    assert made["DatabaseParameters"]["Properties"]["Parameters"]["max_connect_errors"] >= 10_000


def test_a_brought_database_is_opened_to_the_functions_before_the_seed(template: Node) -> None:
    """The functions' group is born in this stack: a seed that goes first finds the door shut, and all rolls back."""
    own = {"VpcId": "vpc-1", "VpcSubnetIds": "subnet-a", "DatabaseSecurityGroupId": "sg-2"}
    given = Given(template, DatabaseEndpoint="db", DatabaseSecretArn="arn:x", **own)
    made = given.made()
    ingress = made["DatabaseIngress"]["Properties"]
    group = {"Fn::GetAtt": ["FunctionsSecurityGroup", "GroupId"]}
    assert (ingress["GroupId"], ingress["SourceSecurityGroupId"]) == ("sg-2", group)
    assert {"Ref": "DatabaseIngress"} in made["Seed"]["Properties"]["Reaches"]
    assert given.outputs()["FunctionsSecurityGroupId"] == group


def test_a_secret_belongs_to_one_user_name(template: Node) -> None:
    """A secret whose template changes gets a new password, on a rollback too, and MySQL does not know it."""
    for secret, user in (("WorkerSecret", "WorkerUser"), ("MonitorSecret", "MonitorUser")):
        names = {str(Given(template, **{user: name}).made()[secret]["Properties"]["Name"]) for name in ("a", "b")}
        assert len(names) == 2


def test_without_the_example_nothing_refers_to_it(template: Node) -> None:
    """CloudFormation refuses a template whose outputs name what is not made."""
    given = Given(template, CreateDatabase="true", WithExample="false")
    made = given.made()
    left_out = template["Resources"].keys() - made.keys()
    assert {"WorkerFunction", "WorkerRole", "WorkerLogs", "HarnessFunction", "HarnessRole", "HarnessLogs"} <= left_out
    named = {node["Ref"] for node in walk([made, given.outputs()]) if isinstance(node, dict) and "Ref" in node}
    named |= {
        node["Fn::GetAtt"][0]
        for node in walk([made, given.outputs()])
        if isinstance(node, dict) and "Fn::GetAtt" in node
    }
    assert not named & left_out


def test_the_dimension_set_of_every_line_is_exactly_dbname() -> None:
    """One more dimension (Powertools adds `service`) is another metric: dashboard and alarms would stay empty."""
    lines: list[str] = []
    reporter = Reporter(lines.append)
    shown = gauges(allowed=10, in_use=4, exact=True)
    reporter.granted("orders", shown, took_ms=3, now_ms=1, holder="shop/1")
    reporter.refused("orders", shown, took_ms=3, now_ms=1, holder="shop/1")
    reporter.released("orders", shown, now_ms=1, holder="shop/1")
    reporter.ungoverned("orders", "down", now_ms=1)
    reporter.emit("orders", dict.fromkeys(METRICS, 1), now_ms=1)
    for line in lines:
        (directive,) = json.loads(line)["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("RDSLambda", [["DBName"]])
    assert len(lines) == 5


def test_nothing_in_it_belongs_to_the_machine_that_wrote_it() -> None:
    """The same template deploys everywhere."""
    assert not re.findall(r"/(?:root|home|work|tmp)/|localhost|:4566", TEMPLATE.read_text())
