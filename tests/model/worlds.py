"""Which worlds are explored. `python -m tests.model.worlds [full]` explores them and prints a table."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tests.model.checker import Exploration, explore
from tests.model.protocol import Protocol
from tests.model.state import FEATURES, State, World

PAIR = (1, 2)  # leases of one and of two connections
REST = frozenset(FEATURES) - {"move"}


def with_moves(*features: str, **size: object) -> World:
    """Return the features with moves and crashes: only then do two clients leave more than two leases behind."""
    return World(frozenset({"move", "crash", *features}), **size)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Exhibit:
    """A world by name, and how far it is explored (None: to the end)."""

    name: str
    world: World
    most_states: int | None = None


THREE_SHARDS = {"indexes": 3, "starts": ((3, 1, 3),), "choices": ((3, 1), (3, 3)), "sizes": PAIR}

# Together these hold every pair of features: the first all that leave the budget alone, the others each with a move.
DAILY = (
    Exhibit("all but moves", World(REST, sizes=PAIR)),
    Exhibit("moves, late duplicates", with_moves("late")),
    Exhibit("moves, lost answers", with_moves("lost", "janitor")),
    Exhibit("moves, freeze, renew", with_moves("freeze", "renew")),
    Exhibit("moves, takeover of several", with_moves("several", sizes=PAIR)),
    Exhibit("three shards, three clients", World(frozenset({"move"}), clients=3, **THREE_SHARDS)),  # type: ignore[arg-type]
)
WIDER_BUDGETS = ((2, 1), (2, 2), (1, 1), (0, 1), (3, 2))
FULL = (
    *DAILY,
    Exhibit("moves, lost, freeze, renew, several", with_moves("lost", "freeze", "renew", "several", sizes=PAIR)),
    Exhibit("moves, late, lost", with_moves("late", "lost")),
    Exhibit("moves, budgets from 0 to 3", with_moves(choices=WIDER_BUDGETS)),
    Exhibit("three clients, moves", with_moves(clients=3)),
    Exhibit("three clients, moves, lost", with_moves("lost", clients=3)),
    Exhibit("three clients, moves, freeze, renew", with_moves("freeze", "renew", clients=3)),
    Exhibit("three clients, moves, late", with_moves("late", clients=3), 300_000),
    Exhibit("three clients, all but moves", World(REST, clients=3, sizes=PAIR), 300_000),
    Exhibit("all but moves, two strays", World(REST, sizes=PAIR, strays=2), 300_000),
    Exhibit("three shards, vanishing holders", with_moves(**THREE_SHARDS), 300_000),
    Exhibit("everything at once", with_moves(*REST, sizes=PAIR), 1_000_000),
)


def visit(exhibit: Exhibit) -> Exploration[State]:
    """Explore one world."""
    return explore(Protocol(exhibit.world), exhibit.most_states)


def main() -> None:
    """Print a line for each world."""
    print("| world | clients | states | steps | seconds | |\n| --- | --- | --- | --- | --- | --- |")  # noqa: T201 - a command
    for exhibit in FULL if "full" in sys.argv else DAILY:
        found = visit(exhibit)
        end = found.wrong or ("complete" if found.complete else "stopped there")
        counts = f"{exhibit.world.clients} | {found.states:,} | {found.steps:,} | {found.seconds:.0f}"
        print(f"| {exhibit.name} | {counts} | {end} |", flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
