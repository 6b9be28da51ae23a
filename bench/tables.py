"""Tables and shards for measurements, on DynamoDB Local."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from connection_governor.aws.dynamodb import DynamoDBCaller
from connection_governor.core.lease import ShardKey, pack_record
from connection_governor.wiring import Environment
from connection_governor.wiring.table import dynamodb_store
from connection_governor.wiring.table import operations as operations_of

if TYPE_CHECKING:
    from connection_governor.aws.dynamodb import DynamoDBStore
    from connection_governor.core.deadline import Deadline

DATABASE = "orders"
TOKEN = "session-token/" * 30  # as long as Lambda's, since it is signed and sent with every request
FAR_MS = 4_000_000_000_000  # a lease that no run outlives


def environment(endpoint_url: str, table: str, **more: str) -> Environment:
    """Return the variables with which the production code reaches an emulator, credentials as long as Lambda's."""
    return Environment(
        {
            "AWS_ENDPOINT_URL": endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDBENCHMARKONLY0",
            "AWS_SECRET_ACCESS_KEY": "benchmark/only/benchmark/only/benchmark/",
            "AWS_SESSION_TOKEN": TOKEN,
            "GOVERNOR_TABLE": table,
            "GOVERNOR_DATABASE": DATABASE,
            **more,
        }
    )


def new_table(endpoint_url: str, key: str = "pk") -> str:
    """Make a table with one key attribute, and return its name."""
    name = f"bench-{uuid.uuid4().hex[:12]}"
    definition = {
        "TableName": name,
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": key, "KeyType": "HASH"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
    caller(endpoint_url)("CreateTable", definition)
    return name


def caller(endpoint_url: str) -> DynamoDBCaller:
    """Return the production wire client."""
    return DynamoDBCaller(environment(endpoint_url, "none").endpoint("dynamodb", read_timeout_s=20.0))


def governed_table(endpoint_url: str, *, budget: int = 36, held: int = 0) -> Environment:
    """Make a table with a budget of which `held` connections stay in use; return the caller that reaches it."""
    worker = environment(endpoint_url, new_table(endpoint_url))
    operations_of(worker).set_budget(DATABASE, budget)
    store = dynamodb_store(worker)
    for number in range(held):
        store.grant(ShardKey(DATABASE, 0), f"held{number:04}", pack_record(FAR_MS, 1, "checkout"))
    return worker


class Recorder:
    """Passes DynamoDB's requests on, and keeps the bodies of those that were made while it records."""

    def __init__(self, store: DynamoDBStore) -> None:
        self._store = store
        self._send = store._send  # noqa: SLF001  # a benchmark looks behind the store on purpose
        self.payloads: list[dict[str, Any]] = []
        store._send = self  # noqa: SLF001

    def __call__(self, operation: str, payload: Any, deadline: Deadline | None = None) -> dict[str, Any]:  # noqa: ANN401  # any operation's
        """See `DynamoDBCall`."""
        self.payloads.append({**payload})
        return self._send(operation, payload, deadline)


def update_pair(worker: Environment) -> list[dict[str, Any]]:
    """Return the bodies of the two requests that an acquire and its release make, taken from the production code."""
    store = dynamodb_store(worker)
    recorder = Recorder(store)
    record = pack_record(FAR_MS, 1, "checkout")
    store.grant(ShardKey(DATABASE, 0), "k3Zq81Bd", record)
    store.remove(ShardKey(DATABASE, 0), (("k3Zq81Bd", record),))
    return recorder.payloads
