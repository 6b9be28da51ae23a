"""What DynamoDB answers, as JSON."""

from __future__ import annotations


def settings_item(shards: int = 1) -> dict[str, object]:
    numbers = {"allowed": 3, "shards": shards, "plan": 1, "lease_ms": 30_000, "skew_ms": 1_000, "shards_made": shards}
    return {"Item": {"pk": {"S": "orders"}, **{name: {"N": str(number)} for name, number in numbers.items()}}}


def shard_item(remaining: int) -> dict[str, object]:
    numbers = {"allowed": 3, "remaining": remaining, "fence": 7, "plan": 1}
    item: dict[str, object] = {name: {"N": str(number)} for name, number in numbers.items()}
    return {"Attributes": {"pk": {"S": "orders#0"}, **item, "leases": {"M": {}}}}
