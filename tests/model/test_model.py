"""The protocol explored to the end in small worlds, and each rule broken on purpose to see that the search finds it."""

from __future__ import annotations

import os
from itertools import combinations
from typing import Any

import pytest

from tests.model.checker import explore
from tests.model.protocol import Protocol
from tests.model.state import FEATURES, World
from tests.model.words import in_words
from tests.model.worlds import DAILY, FULL, PAIR, THREE_SHARDS, Exhibit, visit, with_moves

CHOSEN = FULL if os.environ.get("MODEL_SIZE") == "full" else DAILY
CRASH = frozenset({"crash"})
MOVE = frozenset({"move", "crash"})
OVER_GRANT, COUNTER, FENCE = "over-grant", "the counter of shard", "the fence of shard"
BELIEVES = "a client believes in a lease that is not stored"
LOST, UNFINISHED = "lost for good", "a half-done plan cannot be finished"

STALE = THREE_SHARDS | {"features": frozenset({"move"}), "clients": 3, "ahead": 1, "starts": ((3, 3, 3),)}

# What is broken, in which world it shows, what it breaks, in how many steps.
BROKEN: list[tuple[str, dict[str, Any], str, int]] = [
    ("takeover compares only the expiry", {"features": frozenset({"freeze"})}, COUNTER, 4),
    ("takeover leaves the counter alone", {"features": frozenset({"crash", "several"}), "sizes": PAIR}, COUNTER, 4),
    ("takeover leaves the counter alone", {"features": MOVE}, OVER_GRANT, 8),
    ("takeover asks for no room", {"features": MOVE}, OVER_GRANT, 8),
    ("takeover without skew", {}, BELIEVES, 2),
    ("takeover leaves the fence alone", {"features": CRASH}, FENCE, 4),
    ("grant does not ask for a new id", {"features": frozenset({"late"})}, COUNTER, 2),
    ("a retry has a new id", {"features": frozenset({"lost"})}, "a retry left a second lease behind", 2),
    ("an id is enough for a retry", {"twins": True}, "two clients hold one lease", 2),
    ("release compares the id alone", {"features": frozenset({"lost"}), "twins": True}, BELIEVES, 3),
    ("reclaim compares the id alone", {"features": frozenset({"freeze", "renew", "janitor"})}, BELIEVES, 4),
    ("renew compares the id alone", {"features": frozenset({"late", "renew"})}, "a late renew made a lease shorter", 4),
    ("renew needs no room", {"features": frozenset({"renew", "move"})}, OVER_GRANT, 6),
    ("a budget change sets the counter", {"features": MOVE}, COUNTER, 3),
    ("raise before all are lowered", {"features": MOVE}, OVER_GRANT, 6),
    ("raise without stamping all", {"features": MOVE}, OVER_GRANT, 9),
    ("an older plan may stamp", {"features": frozenset({"move"}), "clients": 3}, OVER_GRANT, 9),
    ("raises in any order", {"features": MOVE, **THREE_SHARDS}, OVER_GRANT, 10),
    ("raise up to what was in use", STALE, OVER_GRANT, 16),
    ("missing shards are passed over", {"features": MOVE}, OVER_GRANT, 11),
    ("shards may carry different later plans", {"features": MOVE, "choices": ((3, 2), (2, 1), (2, 2))}, OVER_GRANT, 12),
    ("a plan reclaims nothing", {"features": MOVE}, UNFINISHED, 3),
    ("a missing shard is not short", {"features": MOVE}, LOST, 3),
]


@pytest.mark.timeout(0 if CHOSEN is FULL else 300)
@pytest.mark.parametrize("exhibit", CHOSEN, ids=lambda exhibit: exhibit.name.replace(" ", "-"))
def test_no_reachable_state_breaks_a_promise(exhibit: Exhibit) -> None:
    """Some order of messages, crashes and budget changes over-grants, loses a slot or leaves a plan half done."""
    found = visit(exhibit)
    assert found.wrong is None, f"{found.wrong}\n{in_words(found.trace)}"
    assert found.complete or exhibit.most_states is not None


def test_every_pair_of_features_is_explored_together() -> None:
    """Two features that are safe alone could break a promise together, unseen."""
    explored = [exhibit.world.features for exhibit in DAILY if exhibit.most_states is None]
    pairs = map(frozenset, combinations(FEATURES, 2))
    # A plan's executors reclaim: with moves, the janitor's step is always there.
    missing = [pair for pair in pairs if not any(pair <= features for features in explored)]
    assert missing == []


@pytest.mark.parametrize(("broken", "size", "wrong", "steps"), BROKEN)
def test_a_broken_rule_is_caught_by_a_short_trace(broken: str, size: dict[str, Any], wrong: str, steps: int) -> None:
    """The search proves nothing: it would pass a protocol that is known to break."""
    found = explore(Protocol(World(broken=broken, **size)))
    assert (found.wrong or "").startswith(wrong), found.wrong
    assert len(found.trace) - 1 == steps, in_words(found.trace)


def test_an_id_used_twice_is_refused() -> None:
    """Two holders with the same lease id would both be granted the lease."""
    features = frozenset({"lost", "late", "crash", "freeze"})
    found = explore(Protocol(World(features, twins=True)))
    assert found.complete, in_words(found.trace)


def test_the_search_meets_every_kind_of_step() -> None:
    """A feature is switched on and never happens, and the counts say nothing."""
    met: set[object] = set()
    lost = World(frozenset({"lost", "late", "renew", "freeze"}))
    for world, most_steps in ((lost, 5), (World(frozenset({"crash", "several"})), 8), (with_moves("janitor"), 6)):
        protocol = Protocol(world)
        spread = [(0, state) for state in protocol.initial()]
        seen = {state for _, state in spread}
        for depth, state in spread:
            for label, after in protocol.moves(state) if depth < most_steps else ():
                met |= {label[0], label[2] if label[0] in ("sends", "a late duplicate") else label[0]}
                if (new := protocol.canonical(after)) not in seen:
                    seen.add(new)
                    spread.append((depth + 1, new))
    assert {
        "granted", "granted, answer lost", "granted, taking over 1", "granted, taking over 2", "refused",
        "does not arrive yet", "renewed", "renewed, answer lost", "released", "a late duplicate", "time passes",
        "a client vanishes", "reclaims", "gives up the renewal", "settings", "makes", "stamps", "raises",
    } <= met  # fmt: skip
