"""Keep as many invocations in flight as a plan has."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .outcome import Outcome
    from .plan import Plan


def run(plan: Plan, invoke: Callable[[dict[str, Any]], Outcome], *, time_left: Callable[[], bool]) -> list[Outcome]:
    """Make every iteration, and none once no time is left; return the outcomes in the order in which they ended."""
    outcomes: list[Outcome] = []
    flying: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(max_workers=plan.concurrency) as pool:
        for index, payload in enumerate(plan.events()):
            while not plan.may_start(index, len(flying)):
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                outcomes += [future.result() for future in landed]
            if not time_left():
                break
            flying.add(pool.submit(invoke, payload))
    return outcomes + [future.result() for future in flying]
