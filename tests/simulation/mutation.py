"""Runs mutants: each in a process of its own, through the same worlds, until an invariant breaks or the steps run out.

    python -m tests.simulation.mutation              all of them, and the table in build/mutants.md
    python -m tests.simulation.mutation --only NAME  one, with the history that caught it

The environment variable MUTANT_STEPS sets how many steps each may survive.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "build" / "mutants.md"
DEFAULT_STEPS = 150_000
PACKAGE = "connection_governor"
SOURCES = Path(os.environ.get("MUTANT_SOURCES", ROOT / "layers" / "governor")) / PACKAGE


@dataclass(frozen=True)
class Fate:
    """What became of a mutant.

    Attributes:
        invariant: the first that broke; "" if it survived.
        seed: of the world that broke it.
        steps: how many it had survived by then.
        what: the invariant's message.
    """

    name: str
    invariant: str
    seed: str
    steps: int
    what: str


def mutated(mutant: Mutant) -> str:
    """Return its module's source with the bug in it; each piece of text that it replaces must occur once."""
    source = (SOURCES / f"{mutant.module}.py").read_text()
    for old, new in mutant.changes:
        if source.count(old) != 1:
            raise AssertionError(f"{mutant.name}: stands {source.count(old)} times in {mutant.module}.py: {old!r}")
        source = source.replace(old, new)
    return source


class _MutatedLoader(SourceFileLoader):
    """Compiles a module from its changed source, and never from a cache."""

    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, _fullname: str) -> CodeType:  # by position, as importlib calls it
        """See `SourceLoader`."""
        return compile(mutated(self._mutant), self.path, "exec")


class _Mutation(MetaPathFinder):
    """Finds the mutant's module before any other finder does."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if fullname != f"{PACKAGE}.{self._mutant.module.replace('/', '.')}":
            return None
        spec = PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _MutatedLoader(fullname, spec.origin, self._mutant)
        return spec


def run_in_process(mutant: Mutant, steps: int) -> Fate:
    """Apply a mutant to this process and run worlds until one breaks. Must be called before the package is imported."""
    assert PACKAGE not in sys.modules, "a mutant needs a process that has not imported the package"
    sys.meta_path.insert(0, _Mutation(mutant))
    from tests.simulation.campaign import STEPS_A_WORLD, worlds  # noqa: PLC0415 - only now, so that it imports the mutant

    survived = 0
    for world in worlds(table=mutant.table, focus=mutant.focus):
        violation = world.violation(min(STEPS_A_WORLD, steps - survived))
        survived += world.tally.steps
        if violation is not None:
            return Fate(mutant.name, violation.invariant, world.seed, survived, str(violation))
        if survived >= steps:
            break
    return Fate(mutant.name, "", "", survived, "")


def run_all(mutants: Sequence[Mutant], steps: int) -> list[Fate]:
    """Return each in a process of its own, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda mutant: _run_apart(mutant, steps), mutants))


def _run_apart(mutant: Mutant, steps: int) -> Fate:
    command = [sys.executable, "-m", "tests.simulation.mutation", "--in-process", mutant.name, "--steps", str(steps)]
    path = os.pathsep.join([str(SOURCES.parent), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{mutant.name}: {done.stderr[-2_000:]}")
    return Fate(**json.loads(done.stdout.splitlines()[-1]))


def report(fates: Sequence[Fate]) -> str:
    """Return the table of mutants, as Markdown."""
    lines = ["| mutant | caught by | after steps |", "| --- | --- | ---: |"]
    lines += [f"| {fate.name} | {fate.invariant or '**survived**'} | {fate.steps:,} |" for fate in fates]
    return "\n".join(lines) + "\n"


def steps_allowed() -> int:
    """Return how many steps a mutant may survive."""
    return int(os.environ.get("MUTANT_STEPS", DEFAULT_STEPS))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-process", help=argparse.SUPPRESS)
    parser.add_argument("--only", action="append", help="part of a mutant's name")
    parser.add_argument("--steps", type=int, default=steps_allowed())
    options = parser.parse_args()
    if options.in_process:
        (mutant,) = (mutant for mutant in MUTANTS if mutant.name == options.in_process)
        sys.stdout.write(json.dumps(run_in_process(mutant, options.steps).__dict__) + "\n")
        return
    for mutant in MUTANTS:
        mutated(mutant)
    chosen = [mutant for mutant in MUTANTS if not options.only or any(part in mutant.name for part in options.only)]
    table = report(run_all(chosen, options.steps))
    if not options.only:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table)
    sys.stdout.write(table)


if __name__ == "__main__":
    main()
