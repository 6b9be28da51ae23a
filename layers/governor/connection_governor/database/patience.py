"""How long an opening waits for a silent server, such as a database that resumes from a pause (15 s and more).

One attempt never takes all of the time: after a failover the address may lead to another server. Each next attempt
resolves the name again, and waits twice as long. Only silence before the login is waited for; a refusal is final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.deadline import RESERVE_MS, Deadline

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock

_SHORTEST_MS = 50


class Patience:
    """The attempts of one opening.

    Args:
        first_ms: how long the first attempt may take.
        longest_ms: how long all of them may take.
        deadline: the invocation's; None: there is one attempt, in which each step may take `first_ms`.
        clock: measures the attempts.
    """

    def __init__(self, first_ms: int, longest_ms: int, deadline: Deadline | None, clock: Clock) -> None:
        self._next_ms = first_ms
        self._clock = clock
        self._until = None if deadline is None else deadline.before(RESERVE_MS).within(max(longest_ms, first_ms))
        self._attempt = Deadline.after(first_ms, clock)

    def begin(self) -> None:
        """Begin the next attempt."""
        if self._until is not None:
            self._attempt = self._until.within(self._next_ms)
            self._next_ms *= 2

    @property
    def left_s(self) -> float | None:
        """The seconds that are left of this attempt; None: each of its steps has a limit of its own."""
        return None if self._until is None else max(self._attempt.left_ms(), _SHORTEST_MS) / 1_000

    @property
    def has_another(self) -> bool:
        """Whether this attempt has ended in silence, and another may follow."""
        return self._until is not None and self._attempt.has_passed() and self._until.left_ms() > _SHORTEST_MS
