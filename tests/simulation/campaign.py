"""Many worlds, one after the other: their seeds, what they found together, and what a failing one prints."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from tests.simulation.draws import settings_of
from tests.simulation.focus import FOCUSES
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


FOCUS_EVERY = 3


def world_of(seed: str, *, table: str | None = None, record: bool = False) -> World:
    """The world of a seed: a number, or a number and a focus, such as `17` and `17-plans`.

    Args:
        seed: names it.
        table: on this kind of table, whatever the seed says.
        record: keep the history.
    """
    number, _, focus = seed.partition("-")
    settings = settings_of(number)
    if focus:
        settings = FOCUSES[focus](settings)
    return World(seed, settings if table is None else replace(settings, table=table), record=record)


def worlds(*, first: int = 0, table: str | None = None, focus: str | None = None) -> Iterator[World]:
    """The worlds of the seeds from `first` on.

    Every third concentrates on something, each on the next thing in turn; all do if `focus` is named.
    """
    names = list(FOCUSES)
    for number in count(first):
        turn = focus or (names[number // FOCUS_EVERY % len(names)] if number % FOCUS_EVERY == 0 else "")
        yield world_of(f"{number}-{turn}" if turn else str(number), table=table)
