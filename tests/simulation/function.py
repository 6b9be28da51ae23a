"""The simulated governor function: environments that run the production handler, each killed at its deadline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from connection_governor.errors import GovernorUnavailable
from tests.simulation.network import Network, Request
from tests.support.hub import MS, SECOND, Process

if TYPE_CHECKING:
    from random import Random

    from connection_governor.server.payloads import Requests
    from tests.simulation.environment import Environment
    from tests.simulation.network import Weather
    from tests.simulation.world import World
    from tests.support.hub import Event

DEADLINE_US = 10 * SECOND


class GovernorFunction:
    """Runs each invocation in an idle environment, or in a new one.

    Args:
        world: where it runs.
        random: draws the invocations' faults.
        weather: of the network between callers and Lambda.
    """

    def __init__(self, world: World, random: Random, weather: Weather) -> None:
        self._world = world
        self._idle: list[_Instance] = []
        self._network = Network(world.hub, random, weather, self._started, world.tally)

    def invoke(self, caller: Process, payload: bytes) -> tuple[bytes, str | None]:
        """Invoke for a worker's transport; return the answer's payload, and the kind of its error."""
        job = self._network.call(Request(caller, "invoke", (payload,), caller.call))
        assert isinstance(job, _Job)
        outcome = job.wait(caller)
        if isinstance(outcome, GovernorUnavailable):
            raise outcome
        return outcome

    def _started(self, request: Request) -> _Job:
        """Begin the work: the request has reached Lambda, whether or not its caller still waits."""
        job = _Job(request.arguments[0])
        instance = self._instance()
        instance.run(job, stray=request.stray)
        return job

    def _instance(self) -> _Instance:
        while self._idle:
            instance = self._idle.pop()
            if instance.is_alive:
                return instance
        return _Instance(self, self._world)

    def lose(self) -> None:
        """Lose the invocations that are under way: they never arrive."""
        self._network.lose()

    def free(self, instance: _Instance) -> None:
        """Free an instance that has answered: it is frozen until the next invocation."""
        self._idle.append(instance)


class _Job:
    """One invocation's work, which its caller may wait for."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._outcome: tuple[bytes, str | None] | None = None
        self._waiting: tuple[Process, int] | None = None

    def wait(self, caller: Process) -> tuple[bytes, str | None] | GovernorUnavailable:
        """Wait until it is done, or until the caller's time-out."""
        if self._outcome is not None:
            return self._outcome
        ticket = caller.ticket()
        self._waiting = caller, ticket
        caller.hub.after(3 * SECOND, caller.wake, ticket, None)
        outcome: tuple[bytes, str | None] | None = caller.wait()
        return outcome or GovernorUnavailable("the governor function did not answer in time")

    def done(self, answer: bytes, error: str | None) -> None:
        """Note that it has ended."""
        self._outcome = answer, error
        if self._waiting is not None:
            caller, ticket = self._waiting
            caller.hub.after(2 * MS, caller.wake, ticket, self._outcome)


class _Instance:
    """One environment of the function: handles one invocation after the other."""

    def __init__(self, function: GovernorFunction, world: World) -> None:
        self._function = function
        self._world = world
        self._environment: Environment = world.environment("function")
        self._requests: Requests = self._environment.requests()
        self._job: _Job | None = None
        self._killing: Event | None = None
        self._waiting = 0
        self._environment.process.on_end.append(self._ended)
        self._environment.start(self._serve)

    @property
    def is_alive(self) -> bool:
        """Whether it can take an invocation."""
        return self._environment.process.alive

    def run(self, job: _Job, *, stray: bool) -> None:
        """Begin an invocation."""
        process = self._environment.process
        process.stray = stray
        self._job = job
        self._killing = self._world.hub.after(
            DEADLINE_US, self._world.kill, self._environment, "killed at its deadline"
        )
        if self._waiting:
            process.wake(self._waiting)

    def _serve(self) -> None:
        process = self._environment.process
        while True:
            job = self._job
            if job is None:
                self._waiting = process.ticket()
                process.wait()
                continue
            answer = json.dumps(self._requests.answer(json.loads(job.payload))).encode()
            self._finish(job, answer, None)
            self._function.free(self)

    def _finish(self, job: _Job, answer: bytes, error: str | None) -> None:
        self._job = None
        if self._killing is not None:
            self._killing.cancel()
        job.done(answer, error)

    def _ended(self) -> None:
        if self._job is not None:
            self._finish(self._job, b"{}", "Unhandled")
