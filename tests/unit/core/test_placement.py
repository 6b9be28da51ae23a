"""Where an acquire goes next: each line of the module's two tables."""

from __future__ import annotations

import pytest

from connection_governor.core.lease import ShardKey
from connection_governor.core.placement import (
    THROTTLED,
    Move,
    Policy,
    Read,
    Seen,
    Stop,
    Write,
    first_write,
    newcomer,
    next_move,
    waiting,
)

KEYS = tuple(ShardKey("orders", index) for index in range(6))
BY_AGE = tuple(reversed(KEYS))
ROOMS = tuple(Write(key) for key in KEYS[2:4])

ONCE = newcomer(KEYS, BY_AGE, comes_again=False)
AGAIN = newcomer(KEYS, BY_AGE, comes_again=True)
WAITING = waiting(BY_AGE, comes_again=True)
LAST = waiting(KEYS[1:3], comes_again=False)
ANSWERED = Seen(refused=KEYS[0])


@pytest.mark.parametrize(
    ("policy", "seen", "move"),
    [
        (ONCE, Seen(), Write(KEYS[0], may_leave=True)),
        (AGAIN, Seen(throttled=1), Write(KEYS[1], may_leave=True)),
        (ONCE, Seen(throttled=THROTTLED - 1), Write(KEYS[THROTTLED - 1])),
        (ONCE, ANSWERED, Read(KEYS[1:])),
        (ONCE, Seen(throttled=2, refused=KEYS[2]), Read((*KEYS[:2], *KEYS[3:]))),
        (AGAIN, ANSWERED, Read(BY_AGE[:1])),
        (AGAIN, Seen(refused=BY_AGE[0]), Read(BY_AGE[1:2])),
        (WAITING, Seen(), Read(BY_AGE[:1])),
        (LAST, Seen(), Read(KEYS[1:3])),
        (ONCE, Seen(refused=KEYS[0], rooms=ROOMS), ROOMS[0]),
        (ONCE, Seen(refused=KEYS[0], rooms=ROOMS[1:], lost=1), ROOMS[1]),
        (AGAIN, Seen(refused=KEYS[0], rooms=ROOMS[1:], lost=1), Stop()),
        (LAST, Seen(rooms=ROOMS[1:], lost=1), Stop()),
        (ONCE, Seen(refused=KEYS[0], rooms=()), Stop()),
        (newcomer(KEYS[:1], KEYS[:1], comes_again=False), ANSWERED, Stop()),
    ],
)
def test_each_line_of_the_table(policy: Policy, seen: Seen, move: Move) -> None:
    """A write too many costs a unit at the busiest moment, a shard left out a refusal while connections lie idle."""
    assert next_move(seen, policy) == move


@pytest.mark.parametrize("shards", [1, 2, 6])
@pytest.mark.parametrize("has_waited", [True, False])
@pytest.mark.parametrize("comes_again", [True, False])
def test_every_pass_ends(shards: int, has_waited: bool, comes_again: bool) -> None:
    """Whatever the shards answer: a pass that went round in circles would hammer a table that is at its limit."""
    keys = KEYS[:shards]
    policy = waiting(keys, comes_again=comes_again) if has_waited else newcomer(keys, keys, comes_again=comes_again)
    passes = [(Seen(), 0)]
    while passes:
        seen, moves = passes.pop()
        assert moves <= THROTTLED + 1 + shards
        move = next_move(seen, policy)
        if isinstance(move, Read):
            rooms = [Write(key) for key in move.keys]
            passes += [(seen.after_read(rooms), moves + 1), (seen.after_read(()), moves + 1)]
        elif isinstance(move, Write):
            passes.append((seen.after_lost(move), moves + 1))
            if move.may_leave:
                passes.append((seen.after_throttled(), moves + 1))


@pytest.mark.parametrize("shards", [1, 2, 6])
@pytest.mark.parametrize("comes_again", [True, False])
def test_every_policy_of_a_newcomer_begins_with_the_first_write(shards: int, comes_again: bool) -> None:
    """An acquire writes it before it makes a policy: with another beginning there, the table would not be obeyed."""
    keys = KEYS[:shards]
    policy = newcomer(keys, tuple(reversed(keys)), comes_again=comes_again)
    assert next_move(Seen(), policy) == first_write(keys)


def test_only_an_unread_shard_with_another_after_it_may_be_left() -> None:
    """The last one that is tried has to be waited for: a refusal would say that no connection is left."""
    moves = [next_move(Seen(throttled=count), ONCE) for count in range(THROTTLED)]
    assert [move.may_leave for move in moves if isinstance(move, Write)] == [True] * (THROTTLED - 1) + [False]
