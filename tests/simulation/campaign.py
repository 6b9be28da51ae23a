"""Many worlds, one after the other: their seeds, what they found together, and what a failing one prints."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from tests.simulation.draws import settings_of
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


def worlds(*, first: int = 0, table: str | None = None) -> Iterator[World]:
    """The worlds of the seeds `first`, `first + 1`, …; all on one kind of table if it is named."""
    for seed in map(str, count(first)):
        settings = settings_of(seed)
        yield World(seed, settings if table is None else replace(settings, table=table))
