"""The store in DynamoDB: one item a shard, one conditional UpdateItem a change.

    pk         "orders#3"                      database # shard
    allowed    36                              this shard's part of the budget
    remaining  34                              the atomic counter: allowed less what the leases hold
    fence      1841                            grows with each grant
    plan       7                               the last budget plan that wrote this shard
    waited     1800000000000                   when a caller that was refused before last got a lease here
    opens      1800000000000000                with a limited opening rate: when the token of the last grant was due
    leases     {"k3Zq81Bd": "<record>", …}     lease id -> record (see `lease.pack_record`)

and one item a database, `pk` = its name, for its settings. Conditions allow no arithmetic, which is why the counter is
`remaining` and not what is in use. A missing item fails any condition and is answered without an `Item`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from connection_governor.aws.client import ServiceError, json_call
from connection_governor.core.lease import Settings, Shard, ShardKey, record_connections
from connection_governor.core.rules import TAKEN_AT_ONCE, connections_of
from connection_governor.core.store import PartlyReadError, Unwritten, Written
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connection_governor.aws.client import Endpoint
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Leases
    from connection_governor.core.opening import Opening
    from connection_governor.core.plan import Change

# Each clause of a condition, and the race that it closes.
HAS_ROOM = "remaining >= :n"  # two acquires at the last connection: one of them is refused
NEW_ID = "attribute_not_exists(leases.#id)"  # a retry, or a duplicate, of a grant that was applied: not granted twice
AS_SEEN = "leases.{id} = {record}"  # the holder renewed or released it, or another took it over, since it was read
OLDER_PLAN = "#plan < :plan"  # two operators: once the newer plan has stamped a shard, the older one cannot write it
THIS_PLAN = "#plan = :plan"  # capacity is handed out only when no older plan can write any more
ALLOWED_AS_READ = "allowed = :read"  # two executors of a plan: what one has raised is not raised again
NOT_OVERFULL = "remaining >= :zero"  # a lowered budget: a renewal would carry the excess past its expiry
IS_DUE = "opens <= :latest"  # two acquires at the last token: one of them is refused, or opens later
NOT_FULL = "opens >= :full"  # after a quiet time: what would have come back beyond the burst is not granted
IS_FULL = "opens < :full"  # two acquires at a full bucket: the second does not refill what the first has taken
PACE_SET = "#plan >= :first"  # a change of the rate: a shard that still has the former pace grants nothing by the new
PACE_KNOWN = "#plan <= :last"  # the same: a caller with old settings grants nothing by the former pace
NO_EARLIER = "opens <= :opens"  # a change of the rate: tokens that were taken since the shard was read stay taken
NO_RATE = "attribute_not_exists(opens)"  # two executors of a plan: the second does not empty the bucket again
NO_ITEM = "attribute_not_exists(pk)"  # creating twice must not wipe the leases
PLAN_AS_READ = "#plan = :read"  # two operators: one of the two results, complete

_TAKE = "SET remaining = remaining - :n, fence = fence + :one, leases.#id = :lease"
_WAITED = ", waited = :waited"
_SPEND = ", opens = opens + :cost"
_REFILL = ", opens = :opens"
_RENEW = "SET leases.#id = :renewed"
_RESIZE = "SET allowed = :allowed, remaining = remaining + :added, #plan = :plan"

_GRANT_CONDITION = f"{HAS_ROOM} AND {NEW_ID}"
_SPEND_CONDITION = f"{NOT_FULL} AND {IS_DUE} AND {PACE_SET} AND {PACE_KNOWN}"
_REFILL_CONDITION = f"{IS_FULL} AND {PACE_SET} AND {PACE_KNOWN}"
_RENEW_CONDITION = f"{AS_SEEN.format(id='#id', record=':seen')} AND {NOT_OVERFULL}"
_STAMP_CONDITION = f"{OLDER_PLAN} AND {ALLOWED_AS_READ}"
_RAISE_CONDITION = f"{THIS_PLAN} AND {ALLOWED_AS_READ}"

_PLAN_NAME = {"#plan": "plan"}  # "plan" is a reserved word
_ONE = {"N": "1"}
_BATCH_LIMIT = 100
_SETTING_NUMBERS = tuple(name for name in Settings.__slots__ if name != "database")

_RATE = ("opens_per_second", "open_burst", "rate_plan")  # not stored while the rate is not limited

Item = dict[str, Any]


class DynamoDBCall(Protocol):
    """Sends one request; raises `ServiceError` if DynamoDB refuses it, `GovernorUnavailable` for other failures."""

    def __call__(self, operation: str, payload: Mapping[str, Any], deadline: Deadline | None = None, /) -> Item:
        """Send DynamoDB's `operation`, such as "UpdateItem"; return the answer's JSON object."""


class DynamoDBStore:
    """A `LeaseStore` in one DynamoDB table with the key attribute `pk`."""

    def __init__(self, call: DynamoDBCall, table: str, deadline: Deadline | None = None) -> None:
        self._send = call
        self._table = table
        self._deadline = deadline

    def within(self, deadline: Deadline | None) -> DynamoDBStore:
        """See `LeaseStore.within`."""
        if deadline is self._deadline:
            return self
        return DynamoDBStore(self._send, self._table, deadline)

    def grant(
        self,
        key: ShardKey,
        lease_id: str,
        record: str,
        taken: Leases = (),
        waited_ms: int | None = None,
        opening: Opening | None = None,
    ) -> Written | Unwritten:
        """See `LeaseStore.grant`: one UpdateItem, with no read before it."""
        names, connections = {"#id": lease_id}, record_connections(record)
        values: Item = {":n": _number(connections), ":one": _ONE, ":lease": {"S": record}}
        take, condition = _TAKE, _GRANT_CONDITION
        if waited_ms is not None:
            take, values[":waited"] = _TAKE + _WAITED, _number(waited_ms)
        if opening is not None:
            take += _SPEND if opening.refilled_us is None else _REFILL
            condition += f" AND {_SPEND_CONDITION if opening.refilled_us is None else _REFILL_CONDITION}"
            names, values = names | _PLAN_NAME, values | _opening_values(opening)
        if not taken:
            return self._update(key, take, condition, names, values)
        seen, removal, taken_names, taken_values = _removal(taken)
        values[":n"] = _number(connections - connections_of(taken))
        return self._update(
            key, f"{take} {removal}", f"{condition} AND {seen}", names | taken_names, values | taken_values
        )

    def remove(self, key: ShardKey, leases: Leases) -> Written | Unwritten:
        """See `LeaseStore.remove`: one UpdateItem, for a release and for the janitor's reclaim."""
        condition, removal, names, values = _removal(leases)
        values[":n"] = _number(connections_of(leases))
        return self._update(key, f"SET remaining = remaining + :n {removal}", condition, names, values)

    def renew(self, key: ShardKey, lease_id: str, record: str, renewed: str) -> Written | Unwritten:
        """See `LeaseStore.renew`."""
        values = {":seen": {"S": record}, ":renewed": {"S": renewed}, ":zero": _number(0)}
        return self._update(key, _RENEW, _RENEW_CONDITION, {"#id": lease_id}, values)

    def read(self, keys: Sequence[ShardKey], *, consistent: bool) -> list[Shard | None]:
        """See `LeaseStore.read`: a GetItem for one shard, BatchGetItem for several."""
        if len(keys) == 1:
            item = self._get(_shard_pk(keys[0]), consistent=consistent)
            return [_shard(keys[0], item)]
        found: dict[ShardKey, Shard | None] = {}
        for start in range(0, len(keys), _BATCH_LIMIT):
            try:
                found |= self._get_many(keys[start : start + _BATCH_LIMIT], consistent=consistent)
            except GovernorUnavailable as error:
                if not found:
                    raise
                raise PartlyReadError(
                    str(error), found, throttled=error.throttled, retryable=error.retryable
                ) from error
        if len(found) < len(keys):
            raise PartlyReadError("DynamoDB left a part of the batch unread", found)
        return [found[key] for key in keys]

    def settings(self, database: str, *, consistent: bool) -> Settings | None:
        """See `LeaseStore.settings`."""
        item = self._get(database, consistent=consistent)
        if item is None:
            return None
        return Settings(database, **{name: int(item[name]["N"]) for name in _SETTING_NUMBERS if name in item})

    def save_settings(self, settings: Settings, *, plan_as_read: int | None) -> bool:
        """See `LeaseStore.save_settings`."""
        numbers = {name: getattr(settings, name) for name in _SETTING_NUMBERS}
        item: Item = {name: _number(number) for name, number in numbers.items() if number or name not in _RATE}
        payload: Item = {
            "TableName": self._table,
            "Item": {"pk": {"S": settings.database}, **item},
            "ConditionExpression": NO_ITEM,
        }
        if plan_as_read is not None:
            payload |= {
                "ConditionExpression": PLAN_AS_READ,
                "ExpressionAttributeNames": _PLAN_NAME,
                "ExpressionAttributeValues": {":read": _number(plan_as_read)},
            }
        return self._conditional("PutItem", payload)

    def make_shard(self, key: ShardKey, plan: int, opens_us: int | None = None) -> None:
        """See `LeaseStore.make_shard`."""
        nothing = _number(0)
        item: Item = {
            "pk": {"S": _shard_pk(key)},
            "allowed": nothing,
            "remaining": nothing,
            "fence": nothing,
            "plan": _number(plan),
            "leases": {"M": {}},
        }
        if opens_us is not None:
            item["opens"] = _number(opens_us)
        self._conditional("PutItem", {"TableName": self._table, "Item": item, "ConditionExpression": NO_ITEM})

    def stamp(self, change: Change, plan: int) -> bool:
        """See `LeaseStore.stamp`."""
        return self._resize(change, plan, _STAMP_CONDITION)

    def raise_allowed(self, change: Change, plan: int) -> bool:
        """See `LeaseStore.raise_allowed`."""
        return self._resize(change, plan, _RAISE_CONDITION)

    def _resize(self, change: Change, plan: int, condition: str) -> bool:
        values = {
            ":allowed": _number(change.allowed),
            ":added": _number(change.added),
            ":plan": _number(plan),
            ":read": _number(change.allowed_as_read),
        }
        resize = _RESIZE + " REMOVE opens" if change.unlimited else _RESIZE
        if change.opens_us is not None:
            resize, values[":opens"] = _RESIZE + _REFILL, _number(change.opens_us)
            condition += f" AND {NO_RATE if change.opens_as_read is None else NO_EARLIER}"
        return isinstance(self._update(change.key, resize, condition, _PLAN_NAME, values), Written)

    def _update(
        self, key: ShardKey, update: str, condition: str, names: dict[str, str], values: Item
    ) -> Written | Unwritten:
        payload: Item = {
            "TableName": self._table,
            "Key": {"pk": {"S": _shard_pk(key)}},
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        try:
            item = self._call("UpdateItem", payload)["Attributes"]
        except ServiceError as refused:
            if refused.code != "ConditionalCheckFailedException":
                raise self._unavailable(refused) from refused
            return Unwritten(_shard(key, refused.body.get("Item")), perhaps_applied=refused.perhaps_applied)
        return Written(
            int(item["allowed"]["N"]),
            int(item["remaining"]["N"]),
            int(item["fence"]["N"]),
            _waited_ms(item),
            int(item["opens"]["N"]) if "opens" in item else None,
        )

    def _unavailable(self, refused: ServiceError) -> GovernorUnavailable:
        message = f"DynamoDB refused a request to the table {self._table!r} (GOVERNOR_TABLE): {refused}"
        return GovernorUnavailable(message, retryable=False)

    def _conditional(self, operation: str, payload: Item) -> bool:
        try:
            self._call(operation, payload)
        except ServiceError as refused:
            if refused.code != "ConditionalCheckFailedException":
                raise self._unavailable(refused) from refused
            return False
        return True

    def _get(self, pk: str, *, consistent: bool) -> Item | None:
        payload = {"TableName": self._table, "Key": {"pk": {"S": pk}}, "ConsistentRead": consistent}
        item: Item | None = self._read("GetItem", payload).get("Item")
        return item

    def _get_many(self, keys: Sequence[ShardKey], *, consistent: bool) -> dict[ShardKey, Shard | None]:
        """Return what DynamoDB has processed of one batch; a key that it left unprocessed is not in it."""
        asked = {"Keys": [{"pk": {"S": _shard_pk(key)}} for key in keys], "ConsistentRead": consistent}
        answer = self._read("BatchGetItem", {"RequestItems": {self._table: asked}})
        items = {item["pk"]["S"]: item for item in answer["Responses"].get(self._table, [])}
        unread = {key["pk"]["S"] for key in answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])}
        return {key: _shard(key, items.get(pk)) for key in keys if (pk := _shard_pk(key)) not in unread}

    def _call(self, operation: str, payload: Item) -> Item:
        return self._send(operation, payload, self._deadline)

    def _read(self, operation: str, payload: Item) -> Item:
        try:
            return self._call(operation, payload)
        except ServiceError as refused:
            raise self._unavailable(refused) from refused


def _removal(leases: Leases) -> tuple[str, str, dict[str, str], Item]:
    """Return the condition and the REMOVE clause for leases exactly as seen, with the names and values they use."""
    names = {f"#o{n}": lease_id for n, (lease_id, _) in enumerate(leases)}
    values: Item = {f":o{n}": {"S": record} for n, (_, record) in enumerate(leases)}
    return *_removal_of(len(leases)), names, values


@lru_cache(maxsize=TAKEN_AT_ONCE)
def _removal_of(count: int) -> tuple[str, str]:
    """Return the condition and the clause, which depend only on how many leases there are: nearly always one."""
    condition = " AND ".join(AS_SEEN.format(id=f"#o{n}", record=f":o{n}") for n in range(count))
    return condition, "REMOVE " + ", ".join(f"leases.#o{n}" for n in range(count))


def _shard_pk(key: ShardKey) -> str:
    return f"{key.database}#{key.index}"


def _shard(key: ShardKey, item: Item | None) -> Shard | None:
    if item is None:
        return None
    return Shard(
        key,
        allowed=int(item["allowed"]["N"]),
        remaining=int(item["remaining"]["N"]),
        fence=int(item["fence"]["N"]),
        plan=int(item["plan"]["N"]),
        leases={lease_id: record["S"] for lease_id, record in item["leases"]["M"].items()},
        waited_ms=_waited_ms(item),
        opens_us=int(item["opens"]["N"]) if "opens" in item else None,
    )


def _opening_values(opening: Opening) -> Item:
    """Return the values of the clauses and the assignment that move a shard's `opens`."""
    values = {":full": opening.full_us, ":first": opening.first_plan, ":last": opening.last_plan}
    if opening.refilled_us is None:
        values |= {":latest": opening.latest_us, ":cost": opening.cost_us}
    else:
        values[":opens"] = opening.refilled_us
    return {name: _number(number) for name, number in values.items()}


def _waited_ms(item: Item) -> int:
    return int(item["waited"]["N"]) if "waited" in item else 0


def _number(number: int) -> Item:
    return {"N": str(number)}


_DYNAMODB_VERSION = "DynamoDB_20120810"


class DynamoDBCaller:
    """Sends DynamoDB's operations over the lean client."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __call__(self, operation: str, payload: Mapping[str, Any], deadline: Deadline | None = None) -> dict[str, Any]:
        """See `DynamoDBCall`."""
        return json_call(self._endpoint, f"{_DYNAMODB_VERSION}.{operation}", payload, deadline=deadline)
