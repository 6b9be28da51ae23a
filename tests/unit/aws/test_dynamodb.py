"""The shape of each request to DynamoDB, and what its refusals become: nothing here proves concurrency."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.aws.client import ServiceError
from connection_governor.aws.dynamodb import DynamoDBStore
from connection_governor.core.lease import Settings, ShardKey, pack_record
from connection_governor.core.plan import Change
from connection_governor.core.store import PartlyReadError, Unwritten, Written
from connection_governor.errors import GovernorUnavailable
from tests.support.virtual import NOW_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connection_governor.core.deadline import Deadline

KEY = ShardKey("orders", 3)
RECORD = pack_record(NOW_MS, 1, "checkou")
SEEN = (("dead-001", pack_record(NOW_MS, 2, "a")), ("dead-002", pack_record(NOW_MS, 1, "b")))
NUMBERS = {"allowed": {"N": "36"}, "remaining": {"N": "34"}, "fence": {"N": "9"}, "plan": {"N": "7"}}
ATTRIBUTES = {**NUMBERS, "leases": {"M": {}}}
# Those of DynamoDB's reserved words that this table could meet.
RESERVED = {"plan", "free", "ttl", "owner", "count", "name", "status", "key", "timestamp", "user", "connection"}


class Recorded:
    """Records what is sent, and gives prepared answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Mapping[str, Any]]] = []
        self.answer: dict[str, Any] | Exception = {"Attributes": ATTRIBUTES}

    def __call__(self, operation: str, payload: Mapping[str, Any], _deadline: Deadline | None = None) -> dict[str, Any]:
        self.sent.append((operation, payload))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def payload(self) -> Mapping[str, Any]:
        """The only one that was sent."""
        ((_, payload),) = self.sent
        return payload


@pytest.fixture
def call() -> Recorded:
    return Recorded()


@pytest.fixture
def store(call: Recorded) -> DynamoDBStore:
    return DynamoDBStore(call, "leases")


WRITES: dict[str, Callable[[DynamoDBStore], object]] = {
    "grant": lambda store: store.grant(KEY, "lease-01", RECORD),
    "takeover": lambda store: store.grant(KEY, "lease-01", RECORD, SEEN),
    "grant to one who waited": lambda store: store.grant(KEY, "lease-01", RECORD, waited_ms=NOW_MS),
    "give back": lambda store: store.remove(KEY, SEEN),
    "renew": lambda store: store.renew(KEY, "lease-01", RECORD, pack_record(NOW_MS + 1, 1, "checkou")),
    "stamp": lambda store: store.stamp(Change(KEY, 5, 3), 7),
    "raise": lambda store: store.raise_allowed(Change(KEY, 3, 5), 7),
    "make shard": lambda store: store.make_shard(KEY, 7),
    "create settings": lambda store: store.save_settings(Settings("orders", 5, 1, 1), plan_as_read=None),
    "change settings": lambda store: store.save_settings(Settings("orders", 5, 1, 2), plan_as_read=1),
}
UPDATES = [name for name in WRITES if "settings" not in name and name != "make shard"]


@pytest.mark.parametrize("name", WRITES)
def test_every_write_is_one_conditional_request_on_one_item(store: DynamoDBStore, call: Recorded, name: str) -> None:
    """A second request is a moment at which a crash leaves half a change; a transaction costs double."""
    WRITES[name](store)
    ((operation, payload),) = call.sent
    assert operation in ("UpdateItem", "PutItem")
    assert payload["TableName"] == "leases"
    assert payload["ConditionExpression"]


@pytest.mark.parametrize("name", WRITES)
def test_every_name_and_value_is_used_and_no_reserved_word_stands_bare(
    store: DynamoDBStore, call: Recorded, name: str
) -> None:
    """DynamoDB refuses the whole request otherwise: only production would show it."""
    WRITES[name](store)
    payload = call.payload
    text = " ".join(str(payload.get(part, "")) for part in ("UpdateExpression", "ConditionExpression"))
    assert set(re.findall(r"#\w+", text)) == set(payload.get("ExpressionAttributeNames", {}))
    assert set(re.findall(r":\w+", text)) == set(payload.get("ExpressionAttributeValues", {}))
    bare = {word.lower() for word in re.findall(r"(?<![#:\w.])[a-zA-Z_]\w*", text)}
    assert not bare & RESERVED


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_answers_with_the_shard_whether_it_was_written_or_not(
    store: DynamoDBStore, call: Recorded, name: str
) -> None:
    """Without the old item each lost race would need a read."""
    WRITES[name](store)
    assert call.payload["Key"] == {"pk": {"S": "orders#3"}}
    assert call.payload["ReturnValues"] == "ALL_NEW"
    assert call.payload["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"


def test_a_grant_adds_up(store: DynamoDBStore, call: Recorded) -> None:
    """The counter, the fence and the lease change together, or none of them does."""
    pair = pack_record(NOW_MS, 2, "checkout")
    assert store.grant(KEY, "lease-01", pair) == Written(36, 34, 9)
    payload = call.payload
    assert payload["UpdateExpression"] == "SET remaining = remaining - :n, fence = fence + :one, leases.#id = :lease"
    assert payload["ConditionExpression"] == "remaining >= :n AND attribute_not_exists(leases.#id)"
    assert payload["ExpressionAttributeValues"] == {":n": {"N": "2"}, ":one": {"N": "1"}, ":lease": {"S": pair}}


def test_a_takeover_subtracts_what_it_takes_less_what_it_frees(store: DynamoDBStore, call: Recorded) -> None:
    """The number may be negative: the counter then grows by the connections freed beyond those granted."""
    store.grant(KEY, "lease-01", RECORD, SEEN)
    payload = call.payload
    assert payload["ExpressionAttributeValues"][":n"] == {"N": "-2"}
    assert payload["UpdateExpression"].endswith("REMOVE leases.#o0, leases.#o1")
    assert payload["ConditionExpression"].endswith("AND leases.#o0 = :o0 AND leases.#o1 = :o1")


def test_removing_leases_adds_the_connections_in_their_records(store: DynamoDBStore, call: Recorded) -> None:
    """And nothing that a request says."""
    store.remove(KEY, SEEN)
    assert call.payload["ExpressionAttributeValues"][":n"] == {"N": "3"}


def test_the_longest_takeover_stays_within_dynamodbs_limits(store: DynamoDBStore, call: Recorded) -> None:
    """4 KB for an expression: past it a crowded shard could never be taken over."""
    many = tuple((f"dead-{number:03}", RECORD) for number in range(40))
    store.grant(KEY, "lease-01", RECORD, many, waited_ms=NOW_MS)
    assert len(call.payload["UpdateExpression"]) < 4_096
    assert len(call.payload["ConditionExpression"]) < 4_096
    assert call.payload["ConditionExpression"].count(" AND ") < 300


def condition_failed(item: Mapping[str, Any] | None) -> ServiceError:
    body = {} if item is None else {"Item": item}
    return ServiceError("ConditionalCheckFailedException", 400, "The conditional request failed", body)


@pytest.mark.parametrize("name", ["grant", "takeover", "give back", "renew"])
def test_a_condition_that_failed_is_a_value_that_shows_the_shard(
    store: DynamoDBStore, call: Recorded, name: str
) -> None:
    """A refusal is expected: an exception would be retried."""
    call.answer = condition_failed(ATTRIBUTES)
    outcome = WRITES[name](store)
    assert isinstance(outcome, Unwritten)
    assert outcome.shard is not None
    assert (outcome.shard.allowed, outcome.shard.remaining, outcome.shard.plan) == (36, 34, 7)
    call.answer = condition_failed(None)
    assert WRITES[name](store) == Unwritten(None)


@pytest.mark.parametrize("name", ["stamp", "raise", "create settings", "change settings"])
def test_a_plans_write_that_lost_says_no(store: DynamoDBStore, call: Recorded, name: str) -> None:
    """Its operator then looks again; making a shard that is there is no news at all."""
    call.answer = condition_failed(None)
    assert WRITES[name](store) is False
    store.make_shard(KEY, 7)


@pytest.mark.parametrize("name", [*WRITES, "read", "settings"])
@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException", "ValidationException", ""])
def test_any_other_refusal_is_an_outage_that_is_not_tried_again(
    store: DynamoDBStore, call: Recorded, name: str, code: str
) -> None:
    """A missing table, right or map of leases: the worker fails closed, at once, and says why."""
    call.answer = ServiceError(code, 400, "no", {})
    reads: dict[str, Callable[[DynamoDBStore], object]] = {
        "read": lambda store: store.read([KEY], consistent=True),
        "settings": lambda store: store.settings("orders", consistent=False),
    }
    with pytest.raises(GovernorUnavailable) as refused:
        (WRITES | reads)[name](store)
    assert not refused.value.retryable
    assert "(GOVERNOR_TABLE)" in str(refused.value)
    assert isinstance(refused.value.__cause__, ServiceError)


@pytest.mark.parametrize("consistent", [True, False])
def test_a_read_is_as_consistent_as_it_was_asked_for(store: DynamoDBStore, call: Recorded, consistent: bool) -> None:
    """A plan over stale shards moves capacity that is not there; a look that is consistent costs double."""
    call.answer = {}
    assert store.read([KEY], consistent=consistent) == [None]
    assert store.settings("orders", consistent=consistent) is None
    assert [(name, payload["ConsistentRead"]) for name, payload in call.sent] == [("GetItem", consistent)] * 2
    call.answer = {"Responses": {"leases": []}}
    assert store.read([KEY, ShardKey("orders", 4)], consistent=consistent) == [None, None]
    assert call.sent[-1][1]["RequestItems"]["leases"]["ConsistentRead"] is consistent


def test_a_batch_that_was_left_half_read_is_throttling_and_keeps_the_half(store: DynamoDBStore, call: Recorded) -> None:
    """Taken for missing, an unread shard's capacity would be handed out twice; thrown away, the half is paid twice."""
    call.answer = {"Responses": {"leases": []}, "UnprocessedKeys": {"leases": {"Keys": [{"pk": {"S": "orders#3"}}]}}}
    with pytest.raises(PartlyReadError) as refused:
        store.read([KEY, ShardKey("orders", 4)], consistent=True)
    assert refused.value.throttled
    assert refused.value.retryable
    assert refused.value.found == {ShardKey("orders", 4): None}


def test_a_batch_after_which_the_next_is_refused_is_kept() -> None:
    """With more than a hundred shards, one outage in the middle would have to be outlived by all batches at once."""
    keys = [ShardKey("orders", index) for index in range(150)]
    answers: list[Any] = [{"Responses": {"leases": []}}, GovernorUnavailable("down")]

    def call(*_request: object) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    with pytest.raises(PartlyReadError) as refused:
        DynamoDBStore(call, "leases").read(keys, consistent=True)
    assert set(refused.value.found) == set(keys[:100])
    assert not refused.value.throttled


def test_settings_of_an_older_version_get_the_defaults(store: DynamoDBStore, call: Recorded) -> None:
    """A table that was made before a setting existed must continue working."""
    call.answer = {"Item": {"pk": {"S": "orders"}, "allowed": {"N": "5"}, "shards": {"N": "1"}, "plan": {"N": "2"}}}
    assert store.settings("orders", consistent=True) == Settings("orders", 5, 1, 2)
