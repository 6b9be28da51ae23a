"""Worlds that concentrate on one part of the protocol, so that its rare races come often. All else stays as drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from connection_governor.database.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.world import WorldSettings


def plans(settings: WorldSettings) -> WorldSettings:
    """Let operators and janitors disturb each other all the time."""
    return replace(
        settings,
        actors=("operator",) * 4 + ("janitor",) * 3 + ("holder",) * 3 + ("renewing",) * 2,
        budget=4,
        shards=2,
        budgets=((6, 3), (0, 1), (4, 2), (7, 4)),
        weather=replace(settings.weather, slow=0.4, late=0.03, twice=0.05, lost=0.02),
        troubles=replace(settings.troubles, crash=20, outage=0, brink=0.15),
        gap_s=1,
        budget_change_s=5,
        janitor_s=4,
    )


def moves(settings: WorldSettings) -> WorldSettings:
    """Let capacity come back bit by bit to a waiting plan, with many executors that raise at once."""
    return replace(
        settings,
        actors=("operator",) * 2 + ("janitor",) * 5 + ("holder",) * 4,
        budget=6,
        shards=3,
        budgets=((6, 3), (3, 1), (6, 2)),
        weather=replace(settings.weather, slow=0.4, late=0.01, twice=0.02, lost=0.02, throttled=0, failed=0),
        troubles=replace(settings.troubles, crash=60, freeze=0, outage=0, brink=0.1),
        gap_s=1,
        hold_s=15,
        budget_change_s=20,
        janitor_s=1.5,
    )


def limits(settings: WorldSettings) -> WorldSettings:
    """Freeze holders that use their leases to the last moment, while others wait for the expiry."""
    return replace(
        settings,
        actors=("longrunner",) * 2 + ("patient",),
        fence=Fence(idle_seconds=5, statement_seconds=4.0, write_seconds=1),
        budget=1,
        shards=1,
        weather=replace(settings.weather, lost=0, throttled=0),
        troubles=replace(
            settings.troubles, crash=60, freeze=0, outage=0, kill_session=0, database_restart=0, brink=0.03
        ),
        habits=replace(settings.habits, silent_death=0.9),
        long_statements=0.1,
        runaways=0.0,
        overstays=0.8,
        spare_s=3,
        gap_s=0.5,
    )


def openings(settings: WorldSettings) -> WorldSettings:
    """Return the same, but freeze most before they open a session, until their lease is about to expire."""
    settings = limits(settings)
    return replace(settings, troubles=replace(settings.troubles, at_opening=True), overstays=0)


def deadlines(settings: WorldSettings) -> WorldSettings:
    """Kill functions at their deadline in the middle of the longest statement, while others wait."""
    return replace(
        limits(settings),
        actors=("connecting",) * 3 + ("patient",),
        deadline_s=3,
        overstays=0.9,
        long_statements=0.3,
    )


def keeping(settings: WorldSettings) -> WorldSettings:
    """Keep connections between invocations, in a budget with room for it, until a worker acquires all of it."""
    return replace(
        settings,
        actors=("keeping",) * 4 + ("longkeeping",) * 2 + ("janitor",),
        budget=14,
        shards=1,
        budgets=((14, 1), (12, 1)),
        troubles=replace(
            settings.troubles,
            crash=20,
            freeze=60,
            brink=0,
            kill_session=0,
            outage=0,
            database_restart=0,
            fewer_connections=0,
        ),
        habits=replace(settings.habits, silent_death=0.9),
        runaways=0.0,
        overstays=0.0,
        gap_s=6,
        deadline_s=15,
    )


def rounds(settings: WorldSettings) -> WorldSettings:
    """Run janitors, one round after the other, while sessions come and go."""
    return replace(
        settings,
        actors=("janitor",) * 3 + ("connecting",) * 4 + ("keeping",),
        budget=8,
        shards=2,
        budgets=((8, 2), (6, 1)),
        troubles=replace(settings.troubles, crash=30, outage=0, brink=0.05),
        gap_s=0.5,
        janitor_s=0.5,
    )


def lags(settings: WorldSettings) -> WorldSettings:
    """Renew leases at the last moment, with lagging reads, and takeovers by workers that are frozen in between."""
    return replace(
        settings,
        actors=("renewing",) * 5 + ("patient",) * 3 + ("longrunner",) * 2,
        budget=4,
        shards=2,
        skew_ms=500,
        clock_bound_ms=249 if settings.honest_clocks else settings.clock_bound_ms,
        lag_ms=4_000,
        weather=replace(settings.weather, slow=0.3, late=0.05),
        troubles=replace(settings.troubles, brink=0.3, outage=0),
    )


def storms(settings: WorldSettings) -> WorldSettings:
    """Return a network in which most requests fail, and a budget over several shards that has room."""
    return replace(
        settings,
        actors=("function",) * 3 + ("remote",) * 2 + ("longrunner", "patient") + ("renewing",) * 3 + ("vandal",),
        budget=9,
        shards=3,
        weather=replace(settings.weather, throttled=0.25, answer_lost=0.15, failed_late=0.1, late=0.05, twice=0.05),
        troubles=replace(settings.troubles, outage=0),
    )


def rates(settings: WorldSettings) -> WorldSettings:
    """Ask for more openings than the rate allows, from several shards, while operators change rate and shards."""
    return replace(
        settings,
        actors=("rusher",) * 8 + ("function", "holder", "remote") + ("operator",) * 2 + ("janitor",),
        budget=60,
        shards=2,
        budgets=((60, 2), (60, 1), (60, 4), (40, 3)),
        rates=(2, 4, 8, 8),
        bursts=(0, 20, 40),
        clock_bound_ms=settings.skew_ms // 2 - 20 if settings.honest_clocks else settings.clock_bound_ms,
        weather=replace(settings.weather, late=0.0, slow=0.02, lost=0.01, throttled=0.0, failed=0.0),
        troubles=replace(settings.troubles, crash=30, freeze=0, brink=0.3, outage=0),
        gap_s=4,
        hold_s=2,
        budget_change_s=25,
        janitor_s=15,
    )


def splits(settings: WorldSettings) -> WorldSettings:
    """Keep rate and burst, and change the number of shards just when all callers rush."""
    return replace(
        rates(settings),
        shards=1,
        budgets=((60, 1), (60, 4), (60, 3), (60, 1)),
        rates=(4,),
        bursts=(24,),
        rush_patience_s=(0, 0, 0, 0.5),
        gap_s=10,
        budget_change_s=10,
        janitor_s=30,
    )


def stalls(settings: WorldSettings) -> WorldSettings:
    """Let the operators stop between two writes, so that shards have different paces for long."""
    settings = splits(settings)
    return replace(settings, troubles=replace(settings.troubles, crash=40, brink=0.6))


FOCUSES: dict[str, Callable[[WorldSettings], WorldSettings]] = {
    "plans": plans,
    "moves": moves,
    "limits": limits,
    "openings": openings,
    "deadlines": deadlines,
    "keeping": keeping,
    "rounds": rounds,
    "lags": lags,
    "storms": storms,
    "rates": rates,
    "splits": splits,
    "stalls": stalls,
}
