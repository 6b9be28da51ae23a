"""Deliberate bugs in the client and the extension, each caught by the test that is named for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.client_mutants import CLIENT_MUTANTS, ClientMutant
from tests.simulation.mutation import ROOT, mutated

_FAILED = 1  # of pytest: tests failed, and nothing worse
_RUN = (
    "import sys, pytest;"
    "from tests.simulation.client_mutants import CLIENT_MUTANTS;"
    "from tests.simulation.mutation import _Mutation;"
    "one = next(one for one in CLIENT_MUTANTS if one.mutant.name == sys.argv[1]);"
    "sys.meta_path.insert(0, _Mutation(one.mutant));"
    "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', one.test]))"
)


def test_each_mutant_really_changes_the_code() -> None:
    """A bug whose text is no longer in the product would be caught by nothing, and miss nothing."""
    for one in CLIENT_MUTANTS:
        compile(mutated(one.mutant), f"{one.mutant.module}.py", "exec")


@pytest.mark.parametrize("one", CLIENT_MUTANTS, ids=lambda one: one.mutant.name.replace(" ", "-"))
def test_the_named_test_fails_with_the_bug_in(one: ClientMutant) -> None:
    """A bug that survives is a rule that nothing protects: someone will simplify it away."""
    path = os.pathsep.join([str(ROOT / "layers" / "governor"), str(ROOT)])
    command = [sys.executable, "-c", _RUN, one.mutant.name]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == _FAILED, done.stdout[-2_000:] + done.stderr[-2_000:]
