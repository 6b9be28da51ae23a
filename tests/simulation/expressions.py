"""As much of DynamoDB as the production store uses: conditional UpdateItem and PutItem, GetItem, BatchGetItem.

Conditions and updates are parsed from their text, so that a clause that is missing there is missing here. What DynamoDB
itself would refuse (unused values, reserved words) is left to the conformance tests on DynamoDB Local.
"""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from connection_governor.aws.client import ServiceError
from connection_governor.aws.dynamodb import DynamoDBStore
from connection_governor.core.lease import Settings, Shard, ShardKey
from tests.simulation.network import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.store import LeaseStore
    from tests.simulation.ledger import Ledger
    from tests.simulation.network import Network
    from tests.support.hub import Process
    from tests.support.versions import Versions

Item = dict[str, Any]

_COMPARISON = re.compile(r"([\w.#]+) (>=|<=|=|<) (:\w+)")
_NOT_EXISTS = re.compile(r"attribute_not_exists\(([\w.#]+)\)")
_ASSIGNMENT = re.compile(r"([\w.#]+) = (?:([\w.#]+) ([+-]) )?(:\w+)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda stored, value: stored >= value,
    "<": lambda stored, value: stored < value,
    "<=": lambda stored, value: stored <= value,
    "=": lambda stored, value: stored == value,
}


class RequestTable:
    """A DynamoDB table: the production `DynamoDBStore` runs in front of the network, its requests are carried out here.

    Args:
        versions: what lagging reads show.
        ledger: checks each change.
    """

    def __init__(self, versions: Versions, ledger: Ledger) -> None:
        self._items: dict[str, Item] = {}
        self._shards: dict[str, Shard] = {}
        self._versions = versions
        self._ledger = ledger

    def deliver(self, request: Request) -> object:
        """See `table.Table.deliver`."""
        (payload,) = request.arguments
        return getattr(self, f"_{request.verb}")(payload, request)

    def store_of(self, process: Process, network: Network) -> LeaseStore:
        """See `table.Table.store_of`."""

        def call(operation: str, payload: Mapping[str, Any], _deadline: Deadline | None = None) -> Item:
            process.brink()
            request = Request(process, operation, (payload,), process.call, process.stray)
            answer: Item = network.call(request)
            return answer

        return DynamoDBStore(call, "leases")

    def _UpdateItem(self, payload: Item, request: Request) -> object:  # noqa: N802 - DynamoDB's word
        pk = payload["Key"]["pk"]["S"]
        stored = self._items.get(pk)
        if stored is None or not _holds(payload, stored):
            return _refused(stored)
        item = _updated(stored, payload)
        self._put(pk, item, request)
        return {"Attributes": item}

    def _PutItem(self, payload: Item, request: Request) -> object:  # noqa: N802 - DynamoDB's word
        pk = payload["Item"]["pk"]["S"]
        if not _holds(payload, self._items.get(pk, {})):
            return _refused(None)
        self._put(pk, payload["Item"], request)
        return {}

    def _GetItem(self, payload: Item, _request: Request) -> object:  # noqa: N802 - DynamoDB's word
        item = self._read(payload["Key"]["pk"]["S"], consistent=payload["ConsistentRead"])
        return {"Item": item} if item else {}

    def _BatchGetItem(self, payload: Item, request: Request) -> object:  # noqa: N802 - DynamoDB's word
        ((table, asked),) = payload["RequestItems"].items()
        look = (
            partial(self._versions.since, sent_us=request.sent_us)
            if asked["ConsistentRead"]
            else self._versions.lagging
        )
        unread = self._versions.unread(asked["Keys"])
        found = [look(key["pk"]["S"]) for key in asked["Keys"] if key not in unread]
        left = {"UnprocessedKeys": {table: {"Keys": unread}}} if unread else {}
        return {"Responses": {table: [item for item in found if item]}, **left}

    def _read(self, pk: str, *, consistent: bool) -> Item | None:
        if consistent:
            return self._items.get(pk)
        lagging: Item | None = self._versions.lagging(pk)
        return lagging

    def _put(self, pk: str, item: Item, request: Request) -> None:
        self._items[pk] = item
        self._versions.note(pk, item)
        if "#" not in pk:
            numbers = {name: int(value["N"]) for name, value in item.items() if "N" in value}
            self._ledger.settings_saved(Settings(pk, **numbers))
            return
        before, after = self._shards.get(pk), _shard(pk, item)
        self._shards[pk] = after
        self._ledger.changed(before, after, request)


def _shard(pk: str, item: Item) -> Shard:
    database, _, index = pk.partition("#")
    numbers = {name: int(item[name]["N"]) for name in ("allowed", "remaining", "fence", "plan")}
    leases = {lease_id: record["S"] for lease_id, record in item["leases"]["M"].items()}
    opens_us = int(item["opens"]["N"]) if "opens" in item else None
    return Shard(ShardKey(database, int(index)), **numbers, leases=leases, opens_us=opens_us)


def _refused(stored: Item | None) -> ServiceError:
    body = {"Item": stored} if stored else {}
    return ServiceError("ConditionalCheckFailedException", 400, "", body)


@cache
def _clauses(condition: str) -> list[tuple[str, str, str]]:
    """Return (path, operator, value's name) of each clause."""
    clauses = []
    for clause in condition.split(" AND "):
        if absent := _NOT_EXISTS.fullmatch(clause):
            clauses.append((absent[1], "", ""))
        elif comparison := _COMPARISON.fullmatch(clause):
            clauses.append((comparison[1], comparison[2], comparison[3]))
        else:
            raise AssertionError(f"not understood: {clause!r}")
    return clauses


@cache
def _parts(update: str) -> tuple[list[tuple[str, str, str, str]], list[str]]:
    """Return the assignments (path, summand's path, sign, value's name) and the removed paths."""
    assignments, _, removed = update.removeprefix("SET ").partition(" REMOVE ")
    parsed = []
    for assignment in assignments.split(", "):
        matched = _ASSIGNMENT.fullmatch(assignment)
        if matched is None:
            raise AssertionError(f"not understood: {assignment!r}")
        parsed.append((matched[1], matched[2] or "", matched[3] or "", matched[4]))
    return parsed, removed.split(", ") if removed else []


def _holds(payload: Item, stored: Item) -> bool:
    names, values = payload.get("ExpressionAttributeNames", {}), payload.get("ExpressionAttributeValues", {})
    if not payload.get("ConditionExpression"):
        return True
    for path, operator, value in _clauses(payload["ConditionExpression"]):
        found = _at(stored, path, names)
        if operator == "":
            if found is not None:
                return False
        elif found is None or not _COMPARE[operator](_plain(found), _plain(values[value])):
            return False
    return True


def _updated(stored: Item, payload: Item) -> Item:
    names, values = payload["ExpressionAttributeNames"], payload["ExpressionAttributeValues"]
    leases = dict(stored["leases"]["M"])
    item = {**stored, "leases": {"M": leases}}
    assignments, removed = _parts(payload["UpdateExpression"])
    for path, summand, sign, name in assignments:
        value = values[name]
        if summand:
            added = int(value["N"]) if sign == "+" else -int(value["N"])
            value = {"N": str(int(_at(stored, summand, names)["N"]) + added)}
        container, key = (leases, names[path.partition(".")[2]]) if "." in path else (item, names.get(path, path))
        container[key] = value
    for path in removed:
        if "." in path:
            leases.pop(names[path.partition(".")[2]], None)
        else:
            item.pop(path, None)
    return item


def _at(stored: Item, path: str, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - an attribute's value
    head, _, tail = path.partition(".")
    if tail:
        return stored["leases"]["M"].get(names[tail])
    return stored.get(names.get(head, head))


def _plain(value: Item) -> int | str:
    return int(value["N"]) if "N" in value else str(value["S"])
