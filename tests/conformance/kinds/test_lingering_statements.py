"""A statement ends within its limit, whatever becomes of its holder. One table of all kinds in build/lingering.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.paths import BUILD
from tests.support.database import SLACK_S
from tests.support.lingering import FENCE, WAYS, seconds, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.kinds import Kind

    Figures = dict[str, dict[str, dict[str, float]]]


WATCHED_S = FENCE.margin_ms / 1_000 + 2 * SLACK_S


@pytest.fixture(scope="session")
def figures() -> Iterator[Figures]:
    """Yield where this run's figures go, by server, way and statement; they are written at the end."""
    taken: Figures = {}
    yield taken
    lines = [f"Seconds; E is {FENCE.statement_bound_ms / 1_000:g} s, W {FENCE.idle_seconds} s."]
    for label, lasted in taken.items():
        lines += ["", label, "", *table(lasted, watched_s=WATCHED_S)]
    (BUILD / "lingering.md").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("way", WAYS)
def test_a_statement_ends_within_its_limit_whatever_becomes_of_its_holder(
    way: str, kind: Kind, figures: Figures
) -> None:
    """A statement that outlives its lease holds a connection that the budget has granted to another."""
    at_most_s = (FENCE.statement_bound_ms if way == "waits" else FENCE.margin_ms) / 1_000 + SLACK_S
    lasted = figures.setdefault(kind.server.LABEL, {})[way] = seconds(kind, way, watched_s=WATCHED_S)
    assert {name: one for name, one in lasted.items() if one > at_most_s} == {}
