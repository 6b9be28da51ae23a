"""What a run asks for: its checked input, each draw, how many may be in flight. Pure: one seed, one load."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PROFILES: Final = ("steady", "ramp", "burst")
OPERATIONS: Final = ("load", "unit")
MAX_ITERATIONS: Final = 100_000
MAX_CONCURRENCY: Final = 500  # one thread each
MAX_HOLD_MS: Final = 600_000


class BadInputError(ValueError):
    """Input that can never be right; `field` names what to correct."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        iterations: how many invocations to make.
        concurrency: how many may be in flight.
        profile: `steady`, `ramp` (the concurrency grows over the first half) or `burst` (waves of all at once).
        hold_ms: least and most that a worker holds its connection, milliseconds.
        crash_rate: share of the workers that are to die while they hold, 0 to 1.
        seed: the same seed draws the same holds and victims.
        timeout_ms: how long a worker waits for a connection, milliseconds; 0 = one try.
        governed: False lets the workers connect without a lease, for comparison.
        details: whether the answer lists each invocation.
    """

    iterations: int
    concurrency: int
    profile: str
    hold_ms: tuple[int, int]
    crash_rate: float
    seed: int
    timeout_ms: int
    governed: bool
    details: bool

    def events(self) -> list[dict[str, Any]]:
        """Return the worker's input of each iteration; exactly the requested share of them is to crash."""
        draw = random.Random(self.seed)  # noqa: S311  # a repeatable load, not a secret
        victims = set(draw.sample(range(self.iterations), round(self.iterations * self.crash_rate)))
        return [
            {
                "hold_ms": draw.randint(*self.hold_ms),
                "crash": index in victims,
                "governed": self.governed,
                "timeout_ms": self.timeout_ms,
                "on_refusal": "return",
            }
            for index in range(self.iterations)
        ]

    def may_start(self, index: int, in_flight: int) -> bool:
        """Return whether iteration `index` may start while so many others are in flight."""
        if self.profile == "burst" and index % self.concurrency == 0:
            return in_flight == 0
        if self.profile == "ramp":
            grown = 1 + (self.concurrency - 1) * 2 * index // self.iterations
            return in_flight < min(self.concurrency, grown)
        return in_flight < self.concurrency


def read_plan(event: Mapping[str, Any], *, any_seed: int) -> Plan:
    """Return the run that the input asks for; `operation: unit` is one invocation, whatever `iterations` says.

    Raises:
        BadInputError: a field out of its bounds or of the wrong kind; nothing was invoked.
    """
    operation = _one_of("operation", event.get("operation", "load"), OPERATIONS)
    iterations = _whole("iterations", event.get("iterations", 100), 1, MAX_ITERATIONS)
    iterations = 1 if operation == "unit" else iterations
    concurrency = _whole("concurrency", event.get("concurrency", 50), 1, MAX_CONCURRENCY)
    return Plan(
        iterations=iterations,
        concurrency=min(concurrency, iterations),
        profile=_one_of("profile", event.get("profile", "steady"), PROFILES),
        hold_ms=_hold(event.get("hold_ms", [1000, 3000])),
        crash_rate=_share("crash_rate", event.get("crash_rate", 0.0)),
        seed=_whole("seed", event.get("seed", any_seed), 0, 2**63 - 1),
        timeout_ms=_whole("timeout_ms", event.get("timeout_ms", 0), 0, MAX_HOLD_MS),
        governed=_flag("governed", event.get("governed", True)),
        details=_flag("details", event.get("details", False)),
    )


def _one_of(field: str, value: object, known: tuple[str, ...]) -> str:
    if value not in known:
        raise BadInputError(field, f"must be one of {', '.join(known)}")
    return str(value)


def _whole(field: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)  # the published sample's console input may quote its numbers
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadInputError(field, f"must be a whole number from {least} to {most}")
    return value


def _share(field: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise BadInputError(field, "must be a number from 0 to 1")
    return float(value)


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadInputError(field, "must be true or false")
    return value


def _hold(value: object) -> tuple[int, int]:
    bounds = value if isinstance(value, list) else [value, value]
    if len(bounds) != 2:  # noqa: PLR2004  # least and most
        raise BadInputError("hold_ms", "must be a number of milliseconds, or [least, most]")
    least, most = (_whole("hold_ms", bound, 0, MAX_HOLD_MS) for bound in bounds)
    if least > most:
        raise BadInputError("hold_ms", "must be [least, most]")
    return least, most
