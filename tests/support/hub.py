"""Virtual time: a queue of events, and processes that run production code in greenlets until they wait for one.

Nothing here reads a real clock or a global generator: what happens is a function of the seeds alone.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from collections.abc import Callable

MS = 1_000
SECOND = 1_000_000
START_US = 1_800_000_000 * SECOND


class Event:
    """Something that will happen; `call` is None once it was called off."""

    __slots__ = ("arguments", "call")

    def __init__(self, call: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self.call: Callable[..., object] | None = call
        self.arguments = arguments

    def cancel(self) -> None:
        """Let it not happen."""
        self.call = None

    def happen(self) -> None:
        """Let it happen now, and not again."""
        call, self.call = self.call, None
        if call is not None:
            call(*self.arguments)


class Hub:
    """The scheduler: runs events in the order of their virtual time, microseconds since 1970 UTC."""

    def __init__(self) -> None:
        self.now_us = START_US
        self._queue: list[tuple[int, int, Event]] = []
        self._made = 0
        self._main = getcurrent()

    def at(self, when_us: int, call: Callable[..., object], *arguments: object) -> Event:
        """Let something happen at a time."""
        event = Event(call, arguments)
        self._made += 1
        heapq.heappush(self._queue, (when_us, self._made, event))
        return event

    def after(self, delay_us: int, call: Callable[..., object], *arguments: object) -> Event:
        """Let something happen after a while."""
        return self.at(self.now_us + delay_us, call, *arguments)

    def start(self, body: Callable[[], object], delay_us: int = 0) -> None:
        """Run a body that may `sleep`, in a greenlet of its own; what it raises ends the run."""
        self.after(delay_us, greenlet(body, self._main).switch)

    def sleep(self, duration_us: int) -> None:
        """Let time pass for the running body. A `Process` has a `sleep` of its own."""
        self.after(max(0, duration_us), getcurrent().switch)
        self._main.switch()

    def due(self, *calls: Callable[..., object]) -> list[Event]:
        """Return the pending calls, in their order."""
        return [event for _, _, event in sorted(self._queue) if event.call in calls]

    def run(self, *, until_us: int | None = None, stop: Callable[[], bool] | None = None) -> None:
        """Run until a time, until `stop` is true, or until nothing is left to do."""
        queue = self._queue
        while queue and (until_us is None or queue[0][0] <= until_us):
            if stop is not None and stop():
                return
            when_us, _, event = heapq.heappop(queue)
            if event.call is not None:
                self.now_us = when_us
                event.call(*event.arguments)
        if until_us is not None:
            self.now_us = max(self.now_us, until_us)

    def run_for(self, duration_us: int) -> None:
        """Let things happen for a while."""
        self.run(until_us=self.now_us + duration_us)

    def switch(self) -> Any:  # noqa: ANN401 - whatever the process waited for
        """Switch from a process to the scheduler, until the process is woken."""
        return self._main.switch()


class HubClock:
    """The virtual time as a body that the hub has started sees it: exact, and sleeping lets it pass."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def now_ms(self) -> int:
        """Return the virtual time, milliseconds since 1970 UTC."""
        return self._hub.now_us // MS

    def monotonic_ms(self) -> int:
        """Return the virtual time: it never goes back."""
        return self._hub.now_us // MS

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._hub.sleep(int(seconds * SECOND))


class Process:
    """One environment: it waits for answers, may be frozen and thawed, and can be ended at any point.

    Once ended, nothing that it would still do reaches the world: every wait in its `finally` clauses ends at once.
    """

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub = hub
        self.name = name
        self.alive = True
        self.frozen = False
        self.call = 0
        self.stray = False
        self.clock_ms = 0
        self.on_failure: Callable[[Process, Exception], None] | None = None
        self.on_brink: Callable[[Process, bool], None] | None = None
        self.on_end: list[Callable[[], None]] = []
        self._ticket = 0
        self._stashed: tuple[int, object] | None = None
        self._greenlet: greenlet | None = None

    def start(self, body: Callable[[], None]) -> None:
        """Begin at once, in the scheduler's next event."""

        def run() -> None:
            try:
                body()
            except GreenletExit:
                pass
            except Exception as failure:
                if self.on_failure is None:
                    raise
                self.on_failure(self, failure)
            finally:
                self.alive = False

        self._greenlet = greenlet(run)
        self.hub.after(0, self._greenlet.switch)

    def ticket(self) -> int:
        """Name the next wait: an event for an older wait comes too late."""
        if not self.alive:
            raise GreenletExit
        self._ticket += 1
        return self._ticket

    def wait(self) -> Any:  # noqa: ANN401 - whatever it was woken with
        """Stop until `wake`; an exception that it is woken with is raised."""
        if not self.alive:
            raise GreenletExit
        outcome = self.hub.switch()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def wake(self, ticket: int, outcome: object = None) -> None:
        """Go on, if this is still what it waits for; while frozen, once thawed."""
        if not self.alive or ticket != self._ticket:
            return
        if self.frozen:
            self._stashed = self._stashed or (ticket, outcome)
            return
        self._ticket += 1
        assert self._greenlet is not None
        self._greenlet.switch(outcome)

    def sleep(self, delay_us: int) -> None:
        """Wait for a while."""
        ticket = self.ticket()
        self.hub.after(delay_us, self.wake, ticket)
        self.wait()

    def brink(self, *, opening: bool = False) -> None:
        """Let the world freeze the process between a decision and the sending of its request, where it matters most."""
        if self.on_brink is not None:
            self.on_brink(self, opening)
            if self.frozen:
                self.sleep(0)

    def freeze(self) -> None:
        """Run no more instruction until `thaw`."""
        self.frozen = True

    def thaw(self) -> None:
        """Continue where it was frozen, with the events that came meanwhile."""
        self.frozen = False
        if self._stashed is not None:
            (ticket, outcome), self._stashed = self._stashed, None
            self.wake(ticket, outcome)

    def end(self) -> None:
        """Stop for good, as by SIGKILL: called from events, never by the process itself."""
        if not self.alive:
            return
        self.alive = False
        if self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.throw(GreenletExit)
        for call in self.on_end:
            call()
