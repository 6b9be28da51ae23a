"""Deliberate bugs in the production code, each caught by an invariant of the simulation: the checks can fail.

The environment variable MUTANT_STEPS sets how many steps each may survive.
"""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.mutation import TABLE, Fate, mutated, report, run_all, steps_allowed

FEWEST_MUTANTS = 20
NOT_CAUGHT = {"", "surprise"}  # survived, or stumbled over something that is no invariant


@pytest.fixture(scope="module")
def fates() -> list[Fate]:
    """Return each mutant's fate; each run writes the table anew."""
    fates = run_all(MUTANTS, steps_allowed())
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(report(fates))
    return fates


def test_each_mutant_really_changes_the_code() -> None:
    """A bug whose text is no longer in the product would be caught by nothing, and miss nothing."""
    assert len(MUTANTS) >= FEWEST_MUTANTS
    for mutant in MUTANTS:
        compile(mutated(mutant), f"{mutant.module}.py", "exec")


@pytest.mark.timeout(1_800)
def test_every_mutant_is_caught_by_an_invariant(fates: list[Fate]) -> None:
    """A bug that survives is a rule that nothing protects: someone will simplify it away."""
    assert [fate.name for fate in fates if fate.invariant in NOT_CAUGHT] == []
