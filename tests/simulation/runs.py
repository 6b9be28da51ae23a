"""Run many worlds on all processors, add up what they met, and explain a world that fails.

python -m tests.simulation.runs                                  SIMULATION_STEPS steps, and the table of what was met
python -m tests.simulation.runs --replay SEED [--without NAMES]  one world: its history up to what broke
python -m tests.simulation.runs --digest SEED                    a hash of one world's whole history
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from tests.simulation.campaign import STEPS_A_WORLD, seed_of, world_of
from tests.simulation.chaos import Troubles
from tests.simulation.ledger import Tally
from tests.simulation.network import Weather
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.simulation.ledger import Violation

DEFAULT_STEPS = 1_000_000
LAST_LINES = 60
STOPPED = 130  # the exit status after Ctrl-C
TROUBLES = tuple(field.name for field in fields(Troubles))
REQUESTS = "requests"  # of the DynamoDB store: without them the memory store is simulated, which is easier to read
FEW_STEPS = 150
FATES = tuple(field.name for field in fields(Weather))


@dataclass(frozen=True)
class Failure:
    """A world in which an invariant broke."""

    seed: str
    what: str


@dataclass(frozen=True)
class Outcome:
    """What all worlds did together."""

    tally: Tally
    failures: tuple[Failure, ...]
    seconds: float


def steps_wanted() -> int:
    """Return how many steps to make: the environment variable SIMULATION_STEPS, or a million."""
    return int(os.environ.get("SIMULATION_STEPS", DEFAULT_STEPS))


def run(steps: int, *, shown: bool = False) -> Outcome:
    """Run worlds of 4,000 steps each, until together they have made so many; `shown` shows the progress."""
    started, total, failures = time.monotonic(), Tally(), []
    numbers = range(-(-steps // STEPS_A_WORLD))
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), initializer=_leave_ctrl_c_to_the_parent) as pool:
        outcomes = pool.map(_run_one, map(seed_of, numbers), chunksize=4)
        console = Console(stderr=True)
        for tally, failure in track(outcomes, f"{steps:,} steps", len(numbers), console=console, disable=not shown):
            total.add(tally)
            failures += [failure] if failure else []
    return Outcome(total, tuple(failures), time.monotonic() - started)


def _leave_ctrl_c_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_one(seed: str) -> tuple[Tally, Failure | None]:
    world = world_of(seed)
    violation = world.violation(STEPS_A_WORLD)
    return world.tally, Failure(seed, str(violation)) if violation else None


def table(tally: Tally) -> str:
    """Return how often each fault, each branch of the engine and each outcome was met, and what wrong clocks broke."""
    lines = [f"{tally.steps:,} steps"]
    for title, counts in (
        ("fault", tally.faults),
        ("branch", tally.branches),
        ("outcome", tally.outcomes),
        ("broken while clocks were beyond the allowance", tally.broken),
    ):
        lines += ["", f"| {title} | times |", "| --- | ---: |"]
        lines += [f"| {name} | {count:,} |" for name, count in sorted(counts.items())]
    return "\n".join(lines) + "\n"


def world_without(seed: str, names: Collection[str], *, record: bool = False) -> World:
    """Return a seed's world, without some of its actors (by place: `actor3`), troubles, fates, and `requests`."""
    settings = world_of(seed).settings
    actors = tuple(kind for place, kind in enumerate(settings.actors) if f"actor{place}" not in names)
    gone: dict[str, Any] = {name: 0 for name in names if name in TROUBLES}
    troubles = replace(settings.troubles, **gone)
    calm: dict[str, Any] = {name: 0 for name in names if name in FATES}
    weather = replace(settings.weather, **calm)
    table = "memory" if REQUESTS in names else settings.table
    return World(seed, replace(settings, actors=actors, troubles=troubles, weather=weather, table=table), record=record)


def minimised(seed: str) -> list[str]:
    """Return the actors, troubles and fates without which a failing world breaks the same invariant as soon."""
    broken, steps = _broken(seed, ())
    without: list[str] = []
    for name in (
        [REQUESTS] + [f"actor{place}" for place in range(len(world_of(seed).settings.actors))] + [*TROUBLES, *FATES]
    ):
        still, needed = _broken(seed, (*without, name))
        if still == broken and needed <= max(steps, FEW_STEPS):
            without.append(name)
            steps = needed
    return without


def _broken(seed: str, without: Collection[str]) -> tuple[str, int]:
    """Return the broken invariant, and after how many steps."""
    world = world_without(seed, without)
    violation = world.violation(STEPS_A_WORLD)
    return violation.invariant if violation else "", world.tally.steps


def explained(failure: Failure) -> str:
    """Return a failure for people: what broke, how to replay it, and the end of the smallest history that shows it."""
    without = minimised(failure.seed)
    less = f" --without {','.join(without)}" if without else ""
    command = f"python -m tests.simulation.runs --replay {failure.seed}{less}"
    return f"{failure.what}\nreplay: {command}\n" + "\n".join(history(failure.seed, without)[-LAST_LINES:])


def history(seed: str, without: Collection[str] = ()) -> list[str]:
    """Return the world's history up to the failure: microseconds, actor, event."""
    world = world_without(seed, without, record=True)
    violation: Violation | None = world.violation(STEPS_A_WORLD)
    return [*(world.history or ()), f"VIOLATION {violation}" if violation else "no violation"]


def digest(seed: str) -> str:
    """Return a hash of the world's whole history."""
    world = world_of(seed, record=True)
    world.violation(STEPS_A_WORLD)
    return world.digest()


def _names(names: str) -> list[str]:
    return names.split(",")


def main() -> int:
    """Run the command line; the exit status is 1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", metavar="SEED")
    parser.add_argument("--without", type=_names, default=(), metavar="NAME,...", help="actors, troubles and fates")
    parser.add_argument("--digest", metavar="SEED")
    options = parser.parse_args()
    say = partial(print, flush=True)
    if options.digest:
        say(digest(options.digest))
    elif options.replay:
        say("\n".join(history(options.replay, options.without)))
    else:
        outcome = run(steps_wanted(), shown=True)
        say(table(outcome.tally), f"\n{outcome.seconds:.0f} s, {len(outcome.failures)} violations", sep="")
        for failure in outcome.failures:
            say("\n" + explained(failure))
        return bool(outcome.failures)
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(STOPPED)
