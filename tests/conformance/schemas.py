"""The function's payloads asked and answered through JSON, each answer held to the schema of its action."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from tests.support.faulty_store import WRITES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.worlds import World

SCHEMA = Path(__file__).parents[2] / "docs" / "schema"
REQUEST = jsonschema.Draft202012Validator(json.loads((SCHEMA / "request.json").read_text("utf-8")))
OTHER = "billing"
ANSWER = json.loads((SCHEMA / "answer.json").read_text("utf-8"))


@cache
def answers_to(action: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**ANSWER, "anyOf": [{"$ref": f"#/$defs/{action}"}]})


def answer(world: World, request: object) -> Any:  # noqa: ANN401 - JSON
    """Return the answer, after a journey through JSON, and held to the schema of its action."""
    given_answer = json.loads(json.dumps(world.requests.answer(request)))
    action = str(request.get("action")) if isinstance(request, dict) else ""
    if isinstance(request, dict) and "incrementCounter" in request:
        action = "reference"
    elif isinstance(given_answer, dict) and "error" in given_answer:
        action = "error"
    answers_to(action).validate(given_answer)
    return given_answer


def granted(world: World, **fields: object) -> dict[str, Any]:
    """Return the lease of an acquire that must be granted."""
    request = {"action": "acquire", "database": world.database, "holder": "checkout/2f1c", **fields}
    given_answer = answer(world, request)
    assert given_answer["granted"], given_answer
    lease: dict[str, Any] = given_answer["lease"]
    return lease


def changes_nothing(world: World, act: Callable[[], object]) -> None:
    """Check that the stored items are the same before and after, and that no write was tried."""
    before = world.picture(world.database, OTHER)
    world.store.calls.clear()
    act()
    assert world.picture(world.database, OTHER) == before
    assert not set(world.store.methods()) & set(WRITES)
