"""Visits every state that a protocol can reach, breadth first; a shortest trace leads to whatever is wrong."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

State = TypeVar("State")
Label = tuple[object, ...]


class System(Protocol[State]):
    """What can be explored. A `canonical` state stands for all that behave alike."""

    def initial(self) -> Iterable[State]: ...
    def moves(self, state: State) -> Iterable[tuple[Label, State]]: ...
    def canonical(self, state: State) -> State: ...
    def wrong(self, state: State) -> str | None: ...
    def wrong_step(self, before: State, after: State, label: Label) -> str | None: ...


@dataclass(frozen=True)
class Exploration(Generic[State]):
    """What was found; `complete` if no state is left to visit, and nothing was wrong with any."""

    states: int
    steps: int
    seconds: float
    complete: bool
    wrong: str | None = None
    trace: tuple[tuple[Label, State], ...] = ()


def explore(system: System[State], most_states: int | None = None) -> Exploration[State]:
    """Visit all states, or as many as allowed, until one is wrong."""
    gc.disable()  # nothing here is cyclic, and walking millions of tuples again and again takes most of the time
    try:
        return _explore(system, most_states)
    finally:
        gc.enable()


def _explore(system: System[State], most_states: int | None) -> Exploration[State]:
    came_from: dict[State, State | None] = dict.fromkeys(system.initial())
    queue, steps, began = list(came_from), 0, time.perf_counter()

    def result(
        wrong: str | None = None, trace: tuple[tuple[Label, State], ...] = (), *, complete: bool = False
    ) -> Exploration[State]:
        return Exploration(len(came_from), steps, time.perf_counter() - began, complete, wrong, trace)

    for state in queue:  # grows while it is walked through
        if wrong := system.wrong(state):
            return result(wrong, _trace(system, came_from, state))
        if most_states is not None and len(came_from) > most_states:
            return result()
        for label, after in system.moves(state):
            steps += 1
            if wrong := system.wrong_step(state, after, label):
                return result(wrong, (*_trace(system, came_from, state), (label, after)))
            new = system.canonical(after)
            if new not in came_from:
                came_from[new] = state
                queue.append(new)
    return result(complete=True)


def _trace(system: System[State], came_from: dict[State, State | None], last: State) -> tuple[tuple[Label, State], ...]:
    """Return how the search came to this state, with the label of each step found again."""
    path = [last]
    while (before := came_from[path[-1]]) is not None:
        path.append(before)
    path.reverse()
    steps: list[tuple[Label, State]] = [(("begins",), path[0])]
    for before, after in pairwise(path):
        steps.append(next((label, after) for label, new in system.moves(before) if system.canonical(new) == after))
    return tuple(steps)
