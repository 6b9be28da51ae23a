"""The network between an environment and the table (or the governor function): the fates of one request.

fate          delivered                          the caller sees
------------  ---------------------------------  -----------------------------------------
calm          after milliseconds                 the answer
slow          after up to 1.8 s                  the answer
lost          never                              a time-out
answer lost   after milliseconds                 a time-out, or a reset connection
late          after it gave up: up to 4 minutes  a time-out
twice         at once, and again up to 4 min on  the first answer
throttled     never                              "throttled"
failed        never                              a 5xx
failed late   after milliseconds                 a 5xx although it was applied
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import astuple, dataclass, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from connection_governor.errors import GovernorUnavailable
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.simulation.ledger import Tally
    from tests.support.hub import Event, Hub, Process

PATIENCE_US = 2 * SECOND  # the wire client's time-out for an answer
LATEST_US = 240 * SECOND


@dataclass(frozen=True)
class Weather:
    """How likely each fate of a request is; the rest is calm."""

    slow: float = 0.0
    lost: float = 0.0
    answer_lost: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    throttled: float = 0.0
    failed: float = 0.0
    failed_late: float = 0.0


FATES = (*(field.name for field in fields(Weather)), "calm")


@dataclass(slots=True)
class Request:
    """One request under way.

    Attributes:
        sender: who sent it.
        verb: what it asks, for the history.
        arguments: its arguments, for the history and the table.
        call: which of the sender's calls it belongs to; a retry belongs to the same.
        sent_us: when it was sent: a read shows nothing older.
        stray: delivered although its sender may have gone on without it: a late delivery or a second one.
        clock_ms: what the sender's clock showed when it last read it.
    """

    sender: Process
    verb: str
    arguments: tuple[Any, ...]
    call: int
    stray: bool = False
    sent_us: int = 0
    clock_ms: int = 0


class Network:
    """Carries requests to `deliver`, each with a fate of its own.

    Args:
        hub: the virtual time.
        random: what decides the fates.
        weather: how likely they are.
        deliver: carries a request out at once and returns the answer; an exception it returns is the caller's.
        tally: counts the fates.
    """

    def __init__(
        self, hub: Hub, random: Random, weather: Weather, deliver: Callable[[Request], object], tally: Tally
    ) -> None:
        self._hub = hub
        self._random = random
        self._deliver = deliver
        self._tally = tally
        self.outage = False
        self.set_weather(weather)

    def set_weather(self, weather: Weather) -> None:
        """Set the network's faults from now on."""
        self._sums = list(accumulate(astuple(weather)))

    def call(self, request: Request) -> Any:  # noqa: ANN401 - the verb's answer
        """Send a request; return the answer, or raise the error that the sender sees instead."""
        ticket = request.sender.ticket()
        request.sent_us, request.clock_ms = self._hub.now_us, request.sender.clock_ms
        fate = "lost" if self.outage else FATES[bisect(self._sums, self._random.random())]
        if fate == "calm":
            self._hub.after(self._hop_us(), self._arrive, request, ticket)
        else:
            self._tally.fault(fate)
            getattr(self, f"_{fate}")(request, ticket)
        return request.sender.wait()

    def hasten(self) -> None:
        """Deliver all that is under way now."""
        for event in self._under_way():
            event.happen()

    def lose(self) -> None:
        """Lose all that is under way."""
        for event in self._under_way():
            event.cancel()

    def _under_way(self) -> list[Event]:
        return self._hub.due(self._arrive, self._arrive_unheard, self._arrive_astray)

    def _hop_us(self) -> int:
        return 500 + int(self._random.random() * 5_000)

    def _arrive(self, request: Request, ticket: int) -> None:
        answer = self._deliver(request)
        self._hub.after(self._hop_us(), request.sender.wake, ticket, answer)

    def _arrive_unheard(self, request: Request) -> None:
        self._deliver(request)

    def _arrive_astray(self, request: Request) -> None:
        request.stray = True
        self._deliver(request)

    def _answer(self, request: Request, ticket: int, delay_us: int, error: GovernorUnavailable) -> None:
        self._hub.after(delay_us, request.sender.wake, ticket, error)

    def _time_out(self, request: Request, ticket: int) -> None:
        reset = self._random.random() < 0.3
        self._answer(
            request,
            ticket,
            self._hop_us() if reset else PATIENCE_US,
            GovernorUnavailable("reset" if reset else "time-out"),
        )

    def _slow(self, request: Request, ticket: int) -> None:
        self._hub.after(int(self._random.random() * 1_800 * MS), self._arrive, request, ticket)

    def _lost(self, request: Request, ticket: int) -> None:
        self._time_out(request, ticket)

    def _answer_lost(self, request: Request, ticket: int) -> None:
        self._hub.after(500, self._arrive_unheard, request)
        self._time_out(request, ticket)

    def _late(self, request: Request, ticket: int) -> None:
        brief = self._random.random() < 0.5
        delay_us = int(self._random.random() * (8 * SECOND if brief else LATEST_US))
        self._hub.after(PATIENCE_US + delay_us, self._arrive_astray, request)
        self._answer(request, ticket, PATIENCE_US, GovernorUnavailable("time-out"))

    def _twice(self, request: Request, ticket: int) -> None:
        copy = Request(
            request.sender, request.verb, request.arguments, request.call, stray=True, sent_us=request.sent_us
        )
        first_us = self._hop_us()
        brief = self._random.random() < 0.6
        self._hub.after(first_us, self._arrive, request, ticket)
        again_us = int(self._random.random() * (SECOND if brief else LATEST_US))
        self._hub.after(first_us + again_us, self._arrive_astray, copy)

    def _throttled(self, request: Request, ticket: int) -> None:
        self._answer(request, ticket, self._hop_us(), GovernorUnavailable("throttled", throttled=True))

    def _failed(self, request: Request, ticket: int) -> None:
        self._answer(request, ticket, self._hop_us(), GovernorUnavailable("500"))

    def _failed_late(self, request: Request, ticket: int) -> None:
        self._hub.after(500, self._arrive_unheard, request)
        self._answer(request, ticket, 1_000 + self._hop_us(), GovernorUnavailable("500"))
