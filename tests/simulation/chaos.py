"""Faults of environments and servers: crashes, freezes, wrong clocks, outages, restarts, KILL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.environment import Environment
    from tests.simulation.world import World
    from tests.support.hub import Process


AT_THE_LIMIT = 0.5  # of those who use their lease to the last moment, so many are frozen then
SPITE = 0.2  # of those that are frozen on the brink of a request, so many are thawed only to crash


@dataclass(frozen=True)
class Troubles:
    """How often each trouble comes, on average every so many virtual seconds; 0: never."""

    crash: float = 0
    freeze: float = 0
    clock_step: float = 0
    outage: float = 0
    kill_session: float = 0
    database_restart: float = 0
    fewer_connections: float = 0
    brink: float = 0  # here: the share of requests on whose brink the environment freezes
    at_opening: bool = False  # and whether most of all before it opens a session


class Chaos:
    """Brings each trouble at random times.

    Args:
        world: the world that it disturbs.
        random: when, and whom.
        troubles: how often.
    """

    def __init__(self, world: World, random: Random, troubles: Troubles) -> None:
        self._world = world
        self._random = random
        self._troubles = troubles
        self._over = False

    def start(self) -> None:
        """Begin now."""
        for name in (
            "crash",
            "freeze",
            "clock_step",
            "outage",
            "kill_session",
            "database_restart",
            "fewer_connections",
        ):
            if getattr(self._troubles, name):
                self._again(name)

    def end(self) -> None:
        """Stop; thaw the frozen processes."""
        self._over = True
        self._world.network.outage = False

    def on_brink(self, process: Process, opening: bool) -> None:
        """Perhaps freeze a process that is about to send or to open a session; once thawed it may crash."""
        environment = self._world.environment_of(process)
        if self._over or environment is None or not environment.freezable or not self._troubles.brink:
            return
        last_moment = environment.at_the_limit or (opening and self._troubles.at_opening)
        if self._random.random() < (AT_THE_LIMIT if last_moment else self._troubles.brink):
            frozen_us = self._tempting_us(environment, opening=opening)
            self._freeze(environment, frozen_us)
            if self._random.random() < (AT_THE_LIMIT if last_moment else SPITE):
                spite_us = frozen_us + int(self._random.random() ** 2 * 2 * SECOND)
                self._world.hub.after(spite_us, self._world.kill, environment, "crashed")

    def _tempting_us(self, environment: Environment, *, opening: bool) -> int:
        """Return how long a freeze does most harm: a session's idle limit, or until just before its lease expires."""
        idle_us = self._world.settings.fence.idle_ms * MS
        if environment.at_the_limit:
            return int(self._random.random() * idle_us)
        left_us = environment.lease_end_us - self._world.hub.now_us
        if left_us > 0 and (opening or self._random.random() < 0.3):
            return max(0, left_us - int(self._random.random() * 2 * idle_us))
        return int(self._random.random() * idle_us * self._random.choice((1, 1, 3)))

    def _again(self, name: str) -> None:
        pause_us = int(self._random.expovariate(1 / getattr(self._troubles, name)) * SECOND)
        self._world.hub.after(pause_us, self._strike, name)

    def _strike(self, name: str) -> None:
        if self._over:
            return
        getattr(self, f"_{name}")()
        self._again(name)

    def _victim(self) -> Environment | None:
        living = [one for one in self._world.environments if one.process.alive]
        return self._random.choice(living) if living else None

    def _crash(self) -> None:
        if victim := self._victim():
            self._world.kill(victim, "crashed")

    def _freeze(self, victim: Environment | None = None, for_us: int | None = None) -> None:
        victim = victim or self._victim()
        if victim is None or victim.process.frozen:
            return
        if for_us is None:
            longest_us = self._random.choice((2 * SECOND, 40 * SECOND, 400 * SECOND))
            for_us = int(self._random.random() * longest_us)
        self._world.note("freeze", victim.name, for_us // MS)
        self._world.tally.fault("frozen")
        victim.process.freeze()
        self._world.hub.after(for_us, self._thaw, victim)

    def _thaw(self, victim: Environment) -> None:
        if victim.process.alive:
            self._world.tally.fault("thawed")
            self._world.note("thaw", victim.name)
            victim.waiting_since_us = self._world.hub.now_us
            victim.process.thaw()

    def _clock_step(self) -> None:
        if victim := self._victim():
            self._world.tally.fault("clock stepped")
            victim.clock.step()
            self._world.note("clock", victim.name, victim.clock.now_ms() - self._world.hub.now_us // MS)

    def _outage(self) -> None:
        if self._world.network.outage:
            return
        self._world.tally.fault("outage")
        self._world.note("outage")
        self._world.network.outage = True
        self._world.hub.after(int(self._random.random() * 15 * SECOND), self._outage_over)

    def _outage_over(self) -> None:
        self._world.network.outage = False
        self._world.patience.troubled()
        self._world.note("outage over")

    def _kill_session(self) -> None:
        server = self._world.server
        if server.sessions:
            self._world.tally.fault("session killed by hand")
            server.kill(self._random.choice(list(server.sessions)))

    def _database_restart(self) -> None:
        self._world.tally.fault("MySQL restarted")
        self._world.note("MySQL restarts")
        self._world.server.restart(int(self._random.random() * 10 * SECOND))

    def _fewer_connections(self) -> None:
        self._world.tally.fault("max_connections changed")
        self._world.server.max_connections = self._random.choice(
            (3, self._world.max_connections, self._world.max_connections)
        )
