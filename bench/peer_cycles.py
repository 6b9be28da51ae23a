"""One cycle of each peer, measured in turn; run by bench/peers.py in an environment that has them installed.

The libraries are used as their documentation shows; of the two samples, which are no libraries, the same requests are
sent with boto3. Nothing is contended: each cycle finds room at its first try.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from bench.direct import BareConnection, governor_cycle
from bench.measure import FULL, TINY, interleaved
from bench.tables import TOKEN, governed_table, update_pair

if TYPE_CHECKING:
    from collections.abc import Callable

_REGION = "us-east-1"


def main() -> None:
    """Measure against DynamoDB Local at the URL given; print a JSON object on the last line."""
    url, effort = sys.argv[1], FULL if sys.argv[2] == "full" else TINY
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    session = boto3.Session("AKID", "SECRET", TOKEN, region_name=_REGION)
    with Path("/dev/null").open("w", encoding="utf-8") as log, redirect_stdout(log):
        ours = governed_table(url)
        cycles = {
            "connection-governor": governor_cycle(ours),
            "ready-made bytes": BareConnection(url).pair(update_pair(ours)),
            "python-dynamodb-lock": python_dynamodb_lock(session, url),
            "dynamodblock": dynamodblock(session, url),
            **zae_limiter(url),
            "Step Functions semaphore's calls": semaphore(session, url),
            "published sample's DynamoDB calls": published_sample(session, url),
        }
        taken = interleaved(cycles, effort.scaled(0.5))
    print(json.dumps({name: asdict(series) for name, series in taken.items()}), flush=True)
    leave()


def leave() -> None:
    """Leave at once: python-dynamodb-lock's heartbeat threads would hold the process for seconds."""
    os._exit(0)


def python_dynamodb_lock(session: boto3.Session, url: str) -> Callable[[], object]:
    """Return its cycle: acquire reads, then puts; release deletes."""
    from python_dynamodb_lock.python_dynamodb_lock import DynamoDBLockClient  # type: ignore[import-not-found]  # noqa: PLC0415

    table = f"lock-{uuid.uuid4().hex[:8]}"
    resource = session.resource("dynamodb", endpoint_url=url)
    DynamoDBLockClient.create_dynamodb_table(session.client("dynamodb", endpoint_url=url), table_name=table)
    client = DynamoDBLockClient(resource, table_name=table)

    def cycle() -> None:
        client.acquire_lock("orders").release()

    return cycle


def dynamodblock(session: boto3.Session, url: str) -> Callable[[], object]:
    """Return its cycle: acquire queries, then puts; release queries, then deletes."""
    from dynamodblock import DynamoDBLock  # type: ignore[import-not-found]  # noqa: PLC0415

    table = _table(session, url, "lock_id")
    resource = session.resource("dynamodb", endpoint_url=url)

    lock = DynamoDBLock(lock_id="orders", dynamodb_table_resource=resource.Table(table))

    def cycle() -> None:
        lock._DynamoDBLockBaseClass__should_delete_lock = True  # noqa: SLF001  # else only its first release releases
        lock.acquire()
        assert lock.release()

    return cycle


def zae_limiter(url: str) -> dict[str, Callable[[], object]]:
    """Return a token bucket's cycle. A rate limiter only takes; as a semaphore it also gives each permit back."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_SESSION_TOKEN": TOKEN}
    from zae_limiter import Limit, SyncRateLimiter, SyncRepository  # type: ignore[import-not-found]  # noqa: PLC0415

    stack = f"zae-{uuid.uuid4().hex[:8]}"
    SyncRepository(name=stack, region=_REGION, endpoint_url=url).create_table()
    repository = SyncRepository.open(stack=stack, region=_REGION, endpoint_url=url, auto_update=False)
    limiter = SyncRateLimiter(repository=repository)
    limits = [Limit.per_second("permits", 1_000_000)]

    def take() -> None:
        with limiter.acquire(entity_id="orders", resource="connections", limits=limits, consume={"permits": 1}):
            pass

    def take_and_give_back() -> None:
        with limiter.acquire(
            entity_id="orders", resource="connections", limits=limits, consume={"permits": 1}
        ) as lease:
            lease.release(permits=1)

    return {"zae-limiter, taking only": take, "zae-limiter, taking and giving back": take_and_give_back}


def semaphore(session: boto3.Session, url: str) -> Callable[[], object]:
    """Return the state machine's two UpdateItem calls in aws-samples/aws-stepfunctions-examples, sent by boto3."""
    table = _table(session, url, "LockName")
    client = session.client("dynamodb", endpoint_url=url)
    key = {"LockName": {"S": "orders"}}
    client.put_item(TableName=table, Item={**key, "currentlockcount": {"N": "0"}})
    execution = "arn:aws:states:us-east-1:123456789012:execution:Semaphore:0c3f6e1e-2f55-4f0e-9d3e-1a2b3c4d5e6f"
    names = {"#currentlockcount": "currentlockcount", "#lockownerid": execution}
    acquire: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {
            ":increase": {"N": "1"},
            ":limit": {"N": "36"},
            ":lockacquiredtime": {"S": "2026-01-01T00:00:00.000Z"},
        },
        "UpdateExpression": "SET #currentlockcount = #currentlockcount + :increase, #lockownerid = :lockacquiredtime",
        "ConditionExpression": "currentlockcount <> :limit and attribute_not_exists(#lockownerid)",
        "ReturnValues": "UPDATED_NEW",
    }
    release: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {":decrease": {"N": "1"}},
        "UpdateExpression": "SET #currentlockcount = #currentlockcount - :decrease REMOVE #lockownerid",
        "ConditionExpression": "attribute_exists(#lockownerid)",
        "ReturnValues": "UPDATED_NEW",
    }
    return _updates(client, acquire, release)


def published_sample(session: boto3.Session, url: str) -> Callable[[], object]:
    """Return the helper's two updates, without the PutMetricData after each and without the two Lambda invocations."""
    table = _table(session, url, "RDBMSName")
    client = session.client("dynamodb", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}))
    key = {"RDBMSName": {"S": "Prod_MySQL"}}
    client.put_item(TableName=table, Item={**key, "MaxConnections": {"N": "50"}, "RemainingConnections": {"N": "50"}})
    take: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "SET RemainingConnections = RemainingConnections - :one",
        "ConditionExpression": "RemainingConnections > :zero",
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":zero": {"N": "0"}},
        "ReturnValues": "UPDATED_NEW",
    }
    give_back: dict[str, Any] = {
        "TableName": table,
        "Key": key,
        "UpdateExpression": "SET RemainingConnections = RemainingConnections + :one",
        "ConditionExpression": "RemainingConnections < MaxConnections",
        "ExpressionAttributeValues": {":one": {"N": "1"}},
        "ReturnValues": "UPDATED_NEW",
    }
    return _updates(client, take, give_back)


def _updates(client: Any, *bodies: dict[str, Any]) -> Callable[[], object]:  # noqa: ANN401  # boto3's clients have no type here
    def cycle() -> None:
        for body in bodies:
            client.update_item(**body)

    return cycle


def _table(session: boto3.Session, url: str, key: str) -> str:
    name = f"peer-{uuid.uuid4().hex[:8]}"
    session.client("dynamodb", endpoint_url=url).create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


if __name__ == "__main__":
    main()
