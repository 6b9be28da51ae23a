"""Which worlds there are: their seeds, from the first on, and what each concentrates on."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from tests.simulation.draws import settings_of
from tests.simulation.focus import FOCUSES
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_A_WORLD = 4_000
FOCUS_EVERY = 3


def seed_of(number: int) -> str:
    """Return the seed with this number; every third concentrates on something, each on the next thing in turn."""
    names = list(FOCUSES)
    return f"{number}-{names[number // FOCUS_EVERY % len(names)]}" if number % FOCUS_EVERY == 0 else str(number)


def world_of(seed: str, *, table: str | None = None, record: bool = False) -> World:
    """Return the world of a seed: a number, or a number and a focus, such as `17` and `17-plans`.

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


def worlds(*, table: str | None = None, focus: str | None = None) -> Iterator[World]:
    """Yield the worlds of all seeds in turn; all concentrate on `focus` if it is named."""
    for number in count():
        yield world_of(f"{number}-{focus}" if focus else seed_of(number), table=table)
