"""Acquire + release by the `lambda` transport, beside the published sample's helper by boto3, on the local AWS.

The governor function is made of the same sources as the deployed one. The helper is written anew after the sample's
documentation: one conditional UpdateItem and one PutMetricData a call. The local AWS runs each in a process of its own.
"""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import FULL, interleaved, ratio
from bench.results import Row
from bench.tables import DATABASE, governed_table, new_table
from connection_governor.client.governor import Governor
from connection_governor.wiring import Environment, governor_parts
from harness.paths import ROOT
from harness.stack.local_aws import KEY, REGION, local_aws

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.measure import Effort
    from harness.stack.local_aws import LocalAws

NAME = "lambda_transport"
MOST_CPU = 0.3
_LIBRARIES = ("aws_lambda_powertools", "jmespath", "typing_extensions")
_HELPER = """
import os
import boto3
from botocore.exceptions import ClientError
table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
metrics = boto3.client("cloudwatch")

def handler(event, context):
    taking, name = event["incrementCounter"], event["RDBMSName"]
    try:
        answer = table.update_item(
            Key={"RDBMSName": name},
            UpdateExpression="SET RemainingConnections = RemainingConnections " + ("- :one" if taking else "+ :one"),
            ConditionExpression="RemainingConnections > :zero" if taking else "RemainingConnections < MaxConnections",
            ExpressionAttributeValues={":one": 1, **({":zero": 0} if taking else {})},
            ReturnValues="UPDATED_NEW",
        )
    except ClientError:
        return False
    print("remaining", answer["Attributes"]["RemainingConnections"])
    metrics.put_metric_data(Namespace="RDSLambda", MetricData=[{
        "MetricName": "Remaining Connections",
        "Dimensions": [{"Name": "DBName", "Value": name}],
        "Value": int(answer["Attributes"]["RemainingConnections"]),
        "StorageResolution": 1,
    }])
    return True
"""


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure both by their own client, and ours also by boto3, which separates the clients' shares."""
    with local_aws() as aws, Path("/dev/null").open("w", encoding="utf-8") as log, redirect_stdout(log):
        client = aws.client("lambda")
        payloads = [{"incrementCounter": taking, "RDBMSName": "Prod_MySQL"} for taking in (True, False)]
        ways = {
            "ours": _governed(aws, client),
            "sample": _invoked(client, _helper(aws, client), payloads),
        }
        taken = interleaved(ways, effort.scaled(0.2))
    details = {name: series.report() for name, series in taken.items()}
    wall = ratio(taken["ours"].wall_ms, taken["sample"].wall_ms)
    cpu = ratio(taken["ours"].cpu_ms, taken["sample"].cpu_ms)
    yield Row(
        NAME,
        "acquire + release, wall / the published sample's helper by boto3",
        "below 1",
        str(wall),
        wall.median < 1,
        details,
    )
    yield Row(NAME, "the same, the client's CPU / boto3's", f"at most {MOST_CPU}", str(cpu), cpu.median <= MOST_CPU)


def _governed(aws: LocalAws, client: Any) -> Callable[[], object]:  # noqa: ANN401  # boto3's
    worker = governed_table(aws.endpoint_url)
    variables = {"GOVERNOR_TABLE": worker.required("GOVERNOR_TABLE"), "GOVERNOR_TRANSPORT": "direct"}
    _create(client, "governor", "governor.handler", _sources(), variables)
    invoking = {**worker.variables, "GOVERNOR_TRANSPORT": "lambda", "GOVERNOR_FUNCTION": "governor"}
    parts = governor_parts(Environment(invoking | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY}))
    governor = Governor(**parts)

    def cycle() -> None:
        governor.release(governor.acquire(DATABASE))

    return cycle


def _helper(aws: LocalAws, client: Any) -> str:  # noqa: ANN401  # boto3's
    table = new_table(aws.endpoint_url, key="RDBMSName")
    budget = {name: {"N": "50"} for name in ("MaxConnections", "RemainingConnections")}
    aws.client("dynamodb").put_item(TableName=table, Item={"RDBMSName": {"S": "Prod_MySQL"}, **budget})
    _create(client, "helper", "helper.handler", {"helper.py": _HELPER.encode()}, {"TABLE": table})
    return "helper"


def _invoked(client: Any, function: str, payloads: list[dict[str, Any]]) -> Callable[[], object]:  # noqa: ANN401  # boto3's
    def cycle() -> None:
        for payload in payloads:
            answer = client.invoke(FunctionName=function, Payload=json.dumps(payload))
            assert json.loads(answer["Payload"].read()) is True

    return cycle


def _create(client: Any, name: str, handler: str, files: dict[str, bytes], variables: dict[str, str]) -> None:  # noqa: ANN401  # boto3's
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    client.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/bench",
        Handler=handler,
        Code={"ZipFile": packed.getvalue()},
        Timeout=10,
        MemorySize=256,
        Environment={"Variables": {"AWS_REGION": REGION, **variables}},
    )


def _sources() -> dict[str, bytes]:
    """Return the package, the handlers, and Powertools from this environment, which the layers carry when deployed."""
    roots = [(ROOT / "layers" / "governor", "connection_governor/**/*.py"), (ROOT / "functions", "*.py")]
    for library in _LIBRARIES:
        found = importlib.util.find_spec(library)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        one_file = origin.name != "__init__.py"
        roots.append((origin.parent, origin.name) if one_file else (origin.parent.parent, f"{library}/**/*.py"))
    return {str(path.relative_to(root)): path.read_bytes() for root, pattern in roots for path in root.glob(pattern)}
