"""What worlds are made of: each seed draws its own sizes and its own few troubles, so that all mixtures come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.database.fence import Fence
from tests.simulation.chaos import Troubles
from tests.simulation.clocks import stream
from tests.simulation.network import Weather
from tests.simulation.server import Habits
from tests.simulation.world import WorldSettings

if TYPE_CHECKING:
    from random import Random

LARGE, LARGE_EVERY = 50, 15  # now and then, more leases in a shard than one write may name
BEYOND_EVERY = 8  # of so many worlds, one has clocks beyond the allowance

RATED_EVERY = 4  # in one of so many the opening rate is limited
REQUESTS_EVERY = 4  # and in one of so many, the requests to DynamoDB themselves are simulated


def settings_of(seed: str) -> WorldSettings:
    """Return the settings of a seed's world."""
    random = stream(f"{seed}/settings")
    shards = random.choice((1, 1, 1, 2, 2, 3, 4))
    budget = random.randint(shards, 3 * shards + 2)
    if random.randrange(LARGE_EVERY) == 0:
        budget, shards = random.randint(2 * LARGE, 3 * LARGE), 1
    skew_ms = random.choice((500, 1_000, 1_000, 2_000))
    beyond = random.randrange(BEYOND_EVERY) == 0
    rates = stream(f"{seed}/rates")
    rated = rates.randrange(RATED_EVERY) == 0
    return WorldSettings(
        rates=tuple(rates.choice((2, 5, 20, 100)) for _ in range(2)) if rated else (),
        bursts=(rates.choice((0, 3)), rates.choice((0, 40))),
        table="dynamodb" if random.randrange(REQUESTS_EVERY) == 0 else "memory",
        actors=_actors(random, budget),
        budget=budget,
        shards=shards,
        budgets=tuple(_budget(random, budget) for _ in range(4)) if budget < LARGE else ((budget, 1), (3, 1)),
        skew_ms=skew_ms,
        clock_bound_ms=random.choice((3_000, 20_000, 300_000)) if beyond else skew_ms // 2 - (20 if rated else 1),
        honest_clocks=not beyond,
        drift_ppm=random.choice((0, 100, 1_000)),
        lag_ms=random.choice((100, 1_500, 4_000)),
        fence=_fence(random),
        weather=_weather(random),
        troubles=_troubles(random),
        habits=Habits(slow_close=random.choice((0, 0, 0.05)), silent_death=random.choice((0.2, 0.8))),
        gap_s=random.choice((0.5, 3, 10)),
        deadline_s=random.choice((3, 15, 40)),
        long_statements=random.choice((0.0, 0.05)),
        overstays=random.choice((0.0, 0.05, 0.3)),
        founded_in_calm=random.random() < 0.3,
        runaways=random.choice((0.0, 0.0, 0.02)),
        opens_anyway=random.choice((0.0, 0.0, 0.5)),
        budget_change_s=random.choice((15, 60, 200)),
    )


def _actors(random: Random, budget: int) -> tuple[str, ...]:
    """Draw the actors: usually more workers than connections; sometimes no operator or janitor, sometimes two."""
    wanted = max(2, round(budget * random.choice((0.4, 0.7, 1.5, 2.5))))
    kinds = ("function", "connecting", "longrunner", "patient", "remote", "vandal", "keeping", "longkeeping")
    weights = [random.choice((0, 1, 2, 4)) for _ in kinds]
    workers = random.choices(kinds, weights=weights if any(weights) else None, k=min(wanted, 16))
    operators = ["operator"] * random.choice((0, 1, 2, 2))
    janitors = ["janitor"] * random.choice((0, 1, 1, 2))
    hoarders = ["hoarder"] * (random.choice((0, 0, 1)) if budget < LARGE else 3)
    return (*workers, *hoarders, *operators, *janitors)


def _budget(random: Random, usual: int) -> tuple[int, int]:
    shards = random.choice((1, 1, 2, 3, 4, 5))
    budget = max(0, usual + random.randint(-usual, usual))
    return budget, min(shards, max(1, budget))


def _fence(random: Random) -> Fence:
    if random.random() < 0.3:
        return Fence()
    return Fence(
        idle_seconds=random.choice((1, 2, 5)), statement_seconds=random.choice((1.0, 2.5, 4.0)), write_seconds=1
    )


def _weather(random: Random) -> Weather:
    """Draw the network's faults: each kind occurs in half of the worlds."""

    def maybe(most: float) -> float:
        return random.choice((0.0, random.random() * most))

    return Weather(
        slow=maybe(0.1),
        lost=maybe(0.06),
        answer_lost=maybe(0.08),
        late=maybe(0.06),
        twice=maybe(0.08),
        throttled=maybe(0.1),
        failed=maybe(0.05),
        failed_late=maybe(0.05),
    )


def _troubles(random: Random) -> Troubles:
    def maybe(*seconds: float) -> float:
        return random.choice((0.0, *seconds))

    return Troubles(
        crash=maybe(5, 30),
        freeze=maybe(5, 30),
        clock_step=maybe(20),
        outage=maybe(150),
        kill_session=maybe(30),
        database_restart=maybe(300),
        fewer_connections=maybe(200),
        brink=random.choice((0.0, 0.1, 0.4)),
    )
