"""The template on the local stack: made, changed, refused, deleted, and its functions as an operator runs them."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import StackError
from harness.package import package
from harness.paths import BUILD, ROOT
from harness.stack.deployment import BUILT, DATABASE_NAME, delete, deploy, outputs
from harness.stack.local_stack import running_stack
from harness.stack.tools import tool
from tests.support.cloudformation import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.stack.local_stack import Stack

BUDGET = 4


def _another(stack: Stack, name: str, *, template: Path = BUILT / "template.yaml", **changed: str) -> Stack:
    """Return one more deployment on the same local AWS and MariaDB, with MySQL users of its own."""
    users = {"WorkerUser": f"{name}_worker", "MonitorUser": f"{name}_monitor", "DatabaseSchema": name}
    parameters = {**stack.parameters, **users, "AllowedConnections": str(BUDGET), **changed}
    deployed = deploy(stack.aws, parameters, stack_name=name, template=template)
    return dataclasses.replace(stack, deployment=deployed, allowed=BUDGET, parameters=parameters)


def _without_rule(name: str) -> Path:
    """Return the built template, less one rule: the local AWS makes an instance that no client can connect to."""
    template = load(BUILT / "template.yaml")
    del template["Rules"][name]
    changed = BUILT / f"without-{name}.yaml"  # beside the code that it names
    changed.write_text(json.dumps(template))
    return changed


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Stack:
    """Return a stack whose workers these tests may crash: its slots come back late."""
    return _another(stack, "shop", GovernedUsers="billing,search")


@pytest.fixture(scope="module")
def enforced() -> Iterator[Stack]:
    """Yield a stack whose functions may do only what their roles allow."""
    with running_stack(allowed=BUDGET, janitor=False, authorization=True) as running:
        yield running


def _status(stack: Stack) -> dict[str, Any]:
    answer: dict[str, Any] = stack.invoke("GovernorFunctionName", {"action": "status", "database": "Prod_MySQL"})
    return answer


def _ask(stack: Stack, query: str) -> list[tuple[Any, ...]]:
    with closing(stack.database.root()) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def _reason(stack: Stack, name: str, status: str) -> str:
    """Return CloudFormation's events of the seed."""
    events = stack.aws.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"]
    seeds = [event for event in events if event["LogicalResourceId"] == "Seed" and event["ResourceStatus"] == status]
    return str(seeds[0]["ResourceStatusReason"])


def test_a_stack_with_everything_made_is_created_changed_and_deleted(stack: Stack) -> None:
    """An operator's whole life with it; a stack that cannot be deleted costs money until it is removed by hand.

    The instance is made by the local AWS's control plane only, so the endpoint and the secret are brought all the same.
    """
    template = _without_rule("DatabaseIsNotBroughtAndMade")
    made = _another(stack, "whole", template=template, CreateDatabase="true", Transport="lambda")
    assert made.invoke("WorkerFunctionName", {"hold_ms": 0})["rows"] == 3
    redeploy = partial(_another, stack, "whole", template=template, CreateDatabase="true", Transport="lambda")
    users = "SELECT user, max_user_connections FROM mysql.user WHERE user LIKE 'whole%' ORDER BY user"
    assert _ask(stack, users) == [("whole_monitor", 3), ("whole_worker", BUDGET)]

    redeploy(AllowedConnections="6")
    assert _status(made)["allowed"] == 6
    assert _ask(stack, users) == [("whole_monitor", 3), ("whole_worker", 6)]

    with pytest.raises(StackError):
        redeploy(AllowedConnections="500")
    assert "AllowedConnections is 500, but the server takes 13" in _reason(stack, "whole", "UPDATE_FAILED")
    assert _status(made)["allowed"] == 6

    delete(stack.aws, "whole")
    assert _ask(stack, users) == []
    assert _ask(stack, "SHOW DATABASES LIKE 'whole'") == []


def test_a_users_network_is_left_alone_unless_asked(stack: Stack) -> None:
    """Endpoints take over their services' names and routes for the whole network.

    The local AWS keeps the functions' network and does nothing with it, so they run all the same.
    """
    ec2 = stack.aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"]
    routes = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    its_endpoints = [{"Name": "vpc-id", "Values": [vpc]}]

    own = {"VpcId": vpc, "VpcSubnetIds": subnet, "RouteTableIds": routes}
    with pytest.raises(StackError, match="Give DatabaseSecurityGroupId"):
        _another(stack, "brought", **own)
    brought = _another(stack, "brought", **own, DatabaseSecurityGroupId="none")
    assert ec2.describe_vpc_endpoints(Filters=its_endpoints)["VpcEndpoints"] == []
    with pytest.raises(StackError, match="Give VpcCidr"):
        brought.redeploy(CreateEndpoints="true")
    brought.redeploy(CreateEndpoints="true", VpcCidr="10.9.0.0/16")
    made = ec2.describe_vpc_endpoints(Filters=its_endpoints)["VpcEndpoints"]
    assert len(made) == 3
    assert brought.invoke("WorkerFunctionName", {"hold_ms": 0})["rows"] == 3
    delete(stack.aws, "brought")


def test_the_janitor_gets_the_governed_users_and_lambda_does_not_repeat_it(shop: Stack) -> None:
    """What the template says must arrive at the function."""
    client, janitor = shop.aws.client("lambda"), shop.deployment.outputs["JanitorFunctionName"]
    variables = client.get_function_configuration(FunctionName=janitor)["Environment"]["Variables"]
    assert variables["DB_WORKER_USERS"] == "shop_worker,billing,search"
    (again,) = client.list_function_event_invoke_configs(FunctionName=janitor)["FunctionEventInvokeConfigs"]
    assert again["MaximumRetryAttempts"] == 0


def test_a_database_that_cannot_be_reached_fails_the_stack_and_says_why(stack: Stack) -> None:
    """A custom resource that dies without an answer holds the stack for an hour, and its rollback for another."""
    with pytest.raises(StackError):
        _another(stack, "lost", DatabasePort="1")
    assert "cannot connect to MySQL as the administrator" in _reason(stack, "lost", "CREATE_FAILED")


def test_a_production_stack_is_the_governor_and_no_example(stack: Stack) -> None:
    """Worker, harness and sample table have no place beside real data; what a user's function needs has."""
    bare = _another(stack, "bare", WithExample="false", WorkerRights="read", DataOnDelete="keep")
    left_out = stack.deployment.outputs.keys() - bare.deployment.outputs.keys()
    assert left_out == {"WorkerFunctionName", "HarnessFunctionName"}
    names = {f["FunctionName"] for f in stack.aws.client("lambda").list_functions()["Functions"]}
    assert {name for name in names if name.startswith("bare-")} == {"bare-governor", "bare-janitor", "bare-seed"}
    assert _ask(stack, "SHOW TABLES FROM bare") == []
    secret = stack.aws.client("secretsmanager").get_secret_value(SecretId=bare.deployment.outputs["WorkerSecretArn"])
    assert json.loads(secret["SecretString"])["username"] == "bare_worker"
    layer = stack.aws.client("ssm").get_parameter(Name="/connection-governor/bare/layer-arn")["Parameter"]["Value"]
    assert layer == bare.deployment.outputs["LayerArn"]
    delete(stack.aws, "bare")


def test_another_user_is_another_secret_and_a_failed_change_keeps_the_old_password(stack: Stack) -> None:
    """A secret whose template changes gets a new password, also on rollback: MySQL would refuse every worker."""
    before = _another(stack, "rename", DataOnDelete="remove")
    old = before.deployment.outputs["WorkerSecretArn"]
    with pytest.raises(StackError):
        before.redeploy(WorkerUser="renamed_worker", DatabasePort="1")
    assert before.invoke("WorkerFunctionName", {"hold_ms": 0})["rows"] == 3
    after = before.redeploy(WorkerUser="renamed_worker")
    assert after.outputs["WorkerSecretArn"] != old
    assert before.invoke("WorkerFunctionName", {"hold_ms": 0})["rows"] == 3
    delete(stack.aws, "rename")


def test_data_is_kept_where_it_is_to_be_kept(stack: Stack) -> None:
    """Deleting the governor must not delete what it governed."""
    _another(stack, "keeper", DataOnDelete="keep")
    delete(stack.aws, "keeper")
    assert _ask(stack, "SELECT COUNT(*) FROM keeper.Employees") == [(3,)]


def test_the_published_samples_worker_is_governed_by_its_own_payload(shop: Stack) -> None:
    """Its users deploy the governor, point their workers to it, and change nothing else."""
    take, give = ({"incrementCounter": increment, "RDBMSName": "Prod_MySQL"} for increment in (True, False))
    taken = [shop.invoke("GovernorFunctionName", take) for _ in range(BUDGET + 1)]
    given = [shop.invoke("GovernorFunctionName", give) for _ in range(BUDGET + 1)]
    assert (taken, given) == ([True] * BUDGET + [False], [True] * BUDGET + [False])
    assert _status(shop)["in_use"] == 0


def test_the_harness_accounts_for_every_invocation(shop: Stack) -> None:
    """Granted, refused and crashed must add up, or the demo's figures prove nothing."""
    load = {"iterations": 30, "concurrency": 8, "hold_ms": [50, 150], "crash_rate": 0.1, "seed": 7, "timeout_ms": 500}
    report = shop.invoke("HarnessFunctionName", {**load, "details": True}, timeout_s=120)
    assert report["requested"] == report["invocations"] == 30
    assert report["granted"] + report["refused"] + report["errors"] + report["throttled"] == 30
    assert (report["errors"], report["throttled"], report["mysql_refused_1040"]) == (0, 0, 0)
    assert 1 <= report["crashed"] <= 3
    assert 1 <= report["peak_held"] <= BUDGET
    rows = [dict(zip(report["details"]["columns"], row, strict=True)) for row in report["details"]["rows"]]
    assert all(row["lease_id"] and row["held_from_ms"] <= row["held_to_ms"] for row in rows if row["kind"] == "granted")


def test_the_harness_counts_what_lambda_throttles(shop: Stack) -> None:
    """An invocation that Lambda refused never reached a worker: taken for a refusal, it would hide a limit."""
    client, worker = shop.aws.client("lambda"), shop.deployment.outputs["WorkerFunctionName"]
    client.put_function_concurrency(FunctionName=worker, ReservedConcurrentExecutions=1)
    try:
        load = {"iterations": 8, "concurrency": 4, "hold_ms": 300, "timeout_ms": 1_000}
        report = shop.invoke("HarnessFunctionName", load, timeout_s=60)
    finally:
        client.delete_function_concurrency(FunctionName=worker)
    assert report["throttled"] > 0
    assert report["granted"] + report["refused"] + report["errors"] + report["throttled"] == report["invocations"] == 8


def test_without_the_governor_the_same_load_is_refused_by_mysql(shop: Stack) -> None:
    """The demo's comparison fails: the governor's refusals beside MySQL's errors."""
    load = {"iterations": 20, "concurrency": 10, "hold_ms": 300, "seed": 7, "governed": False}
    report = shop.invoke("HarnessFunctionName", load, timeout_s=60)
    assert report["mysql_refused_1040"] == report["errors"] > 0
    assert report["granted"] + report["errors"] == 20


def test_the_harness_refuses_bad_input_by_name(shop: Stack) -> None:
    """A typing error in the console must not become a thousand invocations."""
    assert shop.invoke("HarnessFunctionName", {"iterations": "many"})["error"]["field"] == "iterations"


@pytest.mark.parametrize("transport", ["direct", "lambda"])
def test_every_function_can_do_its_work_with_its_own_role(transport: str, enforced: Stack) -> None:
    """Without this, a missing permission shows on AWS alone."""
    enforced.redeploy(Transport=transport)
    assert enforced.invoke("WorkerFunctionName", {"hold_ms": 0, "timeout_ms": 2_000})["rows"] == 3
    assert enforced.invoke("HarnessFunctionName", {"operation": "unit", "hold_ms": 0})["granted"] == 1
    assert enforced.invoke("JanitorFunctionName", {})["killed"] == 0


def test_the_deployed_seed_limits_every_statement_and_the_deployed_janitor_sees_that(enforced: Stack) -> None:
    """A seed that could not make the event, or a janitor that may not look at it, shows in no other answer."""
    client, janitor = enforced.aws.client("lambda"), enforced.deployment.outputs["JanitorFunctionName"]
    assert enforced.invoke("WorkerFunctionName", {"hold_ms": 0})["rows"] == 3  # else a later round looks at nothing
    log = base64.b64decode(client.invoke(FunctionName=janitor, Payload=b"{}", LogType="Tail")["LogResult"])
    assert b'"StatementLimitMissing":0' in log


def test_an_operator_sees_and_ends_a_session_through_the_janitor(enforced: Stack) -> None:
    """At 3 a.m., with no way into the network but this function and its rights."""
    command = [sys.executable, "-m", "connection_governor.cli.commands"]
    environment = {
        **enforced.variables,
        "GOVERNOR_JANITOR": enforced.deployment.outputs["JanitorFunctionName"],
        "PYTHONPATH": str(ROOT / "layers" / "governor"),
    }

    def governor(*arguments: str) -> dict[str, Any]:
        ran = subprocess.run(
            [*command, *arguments, "--json"], env=environment, capture_output=True, text=True, check=True
        )
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    client, worker = enforced.aws.client("lambda"), enforced.deployment.outputs["WorkerFunctionName"]
    with ThreadPoolExecutor() as pool:
        call = pool.submit(client.invoke, FunctionName=worker, Payload=b'{"hold_ms": 20000, "on_refusal": "return"}')
        seen = _until(lambda: governor("sessions", DATABASE_NAME)["sessions"])
        assert seen[0]["holder"]
        killed = governor("kill", DATABASE_NAME, "--lease", seen[0]["lease_id"])["killed"]
        assert killed == [seen[0]["session"]]
        assert json.loads(call.result()["Payload"].read())["outcome"] == "error"
    assert governor("limit", DATABASE_NAME, "6") == {"limit": 6, "allowed": BUDGET}
    limit = "SELECT max_user_connections FROM mysql.user WHERE user = 'governed_worker'"
    assert _ask(enforced, limit) == [(6,)]


def _until(found: Callable[[], list[Any]]) -> list[Any]:
    for _ in range(40):
        if rows := found():
            return rows
        time.sleep(0.5)
    raise AssertionError("nothing came")


def test_the_roles_are_really_enforced(enforced: Stack) -> None:
    """The tests above would pass with empty roles on a stack that checks nothing. Last: the stack is of no use then."""
    iam = enforced.aws.client("iam")
    role = next(role["RoleName"] for role in iam.list_roles()["Roles"] if "GovernorRole" in role["RoleName"])
    iam.delete_role_policy(RoleName=role, PolicyName="governor")
    assert _status(enforced)["error"]["code"] == "unavailable"


def test_a_release_is_deployed_without_sam(stack: Stack) -> None:
    """Whoever uses CDK or Terraform has no sam: a plain template and a bucket must do."""
    folder = package(BUILT / "template.yaml", BUILD / "package-test").parent
    s3, cloudformation = stack.aws.client("s3"), stack.aws.client("cloudformation")
    s3.create_bucket(Bucket="artifacts")
    for path in folder.iterdir():
        s3.upload_file(str(path), "artifacts", f"connection-governor/{path.name}")
    changed = {"WorkerUser": "plain_worker", "MonitorUser": "plain_monitor", "DatabaseSchema": "plain"}
    where = {"ArtifactsBucket": "artifacts", "ArtifactsPrefix": "connection-governor/"}
    parameters = {**stack.parameters, **changed, **where, "AllowedConnections": str(BUDGET)}
    cloudformation.create_stack(
        StackName="plain",
        TemplateURL=f"{stack.aws.endpoint_url}/artifacts/connection-governor/template.yaml",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName="plain", WaiterConfig={"Delay": 1})
    deployed = outputs(stack.aws, "plain")
    client = stack.aws.client("lambda")
    answer = client.invoke(FunctionName=deployed["WorkerFunctionName"], Payload=b'{"hold_ms": 0}')
    assert json.loads(answer["Payload"].read())["rows"] == 3
    cloudformation.delete_stack(StackName="plain")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="plain", WaiterConfig={"Delay": 1})


def test_the_trial_for_an_account_deploys_loads_drills_and_deletes(stack: Stack) -> None:
    """Whoever has an account runs it once, and pays for each fault in it."""
    users = {"WorkerUser": "trial_worker", "MonitorUser": "trial_monitor", "DatabaseSchema": "trial"}
    parameters = {**stack.parameters, **users, "AllowedConnections": str(BUDGET), "WorkerTimeoutSeconds": "4"}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **stack.aws.variables,
        "STACK": "trial",
        "ITERATIONS": "40",
        "CONCURRENCY": "10",
        "PATH": os.pathsep.join([str(tool("sam", "sam").parent), os.environ["PATH"]]),
        "SAM_CLI_TELEMETRY": "0",
    }
    given = [f"{name}={value}" for name, value in parameters.items()]
    command = [str(ROOT / "harness" / "on_aws.sh"), *given]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads((BUILD / "on-aws" / "summary.json").read_text())
    assert summary["invocations"] == 80
    assert summary["crashed"] > 0
    assert 0 < summary["mysql_peak_connections"] <= BUDGET
    assert summary["seconds_to_full_capacity_after_crash"] > 0
    names = [each["StackName"] for each in stack.aws.client("cloudformation").describe_stacks()["Stacks"]]
    assert "trial" not in names, ran.stdout[-3000:] + ran.stderr[-3000:]


def _sam_deploys(stack: Stack, *arguments: str) -> str:
    """Run `sam deploy` with the project's own configuration, as the documents say."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        **stack.aws.variables,
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.5",
        "HOME": str(BUILD / "sam" / "home"),
    }
    command = [str(tool("sam", "sam")), "deploy", "--config-file", str(ROOT / "samconfig.toml"), *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=BUILD / "sam")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_curious_ones_second_command_deploys_what_it_says(stack: Stack) -> None:
    """`sam build && sam deploy --config-env demo` is the first thing that a newcomer types.

    The local AWS makes an instance that nobody can connect to, so the database is brought beside it.
    """
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())["demo"]
    demo = settings["deploy"]["parameters"]["parameter_overrides"].split()
    users = {"WorkerUser": "demo_worker", "MonitorUser": "demo_monitor", "DatabaseSchema": "demo"}
    brought = {**stack.parameters, **users, "AllowedConnections": str(BUDGET)}
    named = {pair.split("=")[0] for pair in demo}
    beside = [f"{name}={value}" for name, value in brought.items() if name not in named]
    template = str(_without_rule("DatabaseIsNotBroughtAndMade"))
    _sam_deploys(stack, "--config-env", "demo", "--template-file", template, "--parameter-overrides", *demo, *beside)
    name = settings["global"]["parameters"]["stack_name"]
    deployed = outputs(stack.aws, name)
    assert deployed["SubnetIds"].count(",") == 1
    answer = stack.aws.client("lambda").invoke(
        FunctionName=deployed["HarnessFunctionName"], Payload=b'{"operation": "unit", "hold_ms": 0}'
    )
    assert json.loads(answer["Payload"].read())["granted"] == 1
    delete(stack.aws, name)


def test_the_production_command_of_the_documents_deploys(stack: Stack) -> None:
    """A command that fails at its first parameter costs the page its reader's trust."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"\n    sam build\n    sam deploy (--parameter-overrides .*?)\n\n", text, re.DOTALL)
    documented = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split()[1:])
    ec2 = stack.aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.0.0/24")["Subnet"]["SubnetId"]
    real = {name: stack.parameters[name] for name in ("DatabaseEndpoint", "DatabaseSecretArn")}
    local = {name: stack.parameters[name] for name in ("DatabasePort", "DatabaseTlsCa")}
    users = {"WorkerUser": "prod_worker", "MonitorUser": "prod_monitor", "DataOnDelete": "remove"}
    own = {"VpcId": vpc, "VpcSubnetIds": subnet, "AllowedConnections": str(BUDGET), "ProtectFromDeletion": "false"}
    closed = {"DatabaseSecurityGroupId": "none"}  # the local AWS knows no rule apart from its group
    assert documented.keys() >= real.keys() | own.keys() | closed.keys() | {"WithExample"}
    given = documented | real | local | users | own | closed
    pairs = [f"{name}={value}" for name, value in given.items()]
    chosen = ["--stack-name", "production", "--no-confirm-changeset", "--template-file", str(BUILT / "template.yaml")]
    _sam_deploys(stack, *chosen, "--parameter-overrides", *pairs)
    assert "WorkerFunctionName" not in outputs(stack.aws, "production")
    delete(stack.aws, "production")
