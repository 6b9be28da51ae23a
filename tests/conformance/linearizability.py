"""Whether a history of concurrent calls could have come from a budget that changes at single moments.

The search of Wing and Gong, with Lowe's memory of what was tried: pick an order of the operations in which each stands
between its call and its return and the budget's rules hold. What was tried is the set of operations already placed and
what is held after them: not the set alone, since a release that found nothing may stand before or after its acquire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ACQUIRE, RELEASE = "acquire", "release"
YES, NO, UNKNOWN = "yes", "no", "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call and what came of it.

    Attributes:
        kind: `acquire` or `release`.
        lease_id: whose.
        outcome: `yes` (granted, released), `no` (refused, nothing to release) or `unknown` (an outage: it may take
            effect at any time after its call, or never).
        called_ns, returned_ns: on one clock for all processes.
        connections: how many.
    """

    kind: str
    lease_id: str
    outcome: str
    called_ns: int
    returned_ns: int
    connections: int = 1


class Budget(NamedTuple):
    """The reference: each holder's connections of a budget."""

    allowed: int
    held: frozenset[tuple[str, int]] = frozenset()

    def after(self, operation: Operation, *, exact_refusals: bool) -> Budget | None:
        """Return the budget after the operation; None if the operation could not have had its outcome now."""
        lease = (operation.lease_id, operation.connections)
        if operation.kind == RELEASE:
            # "no" may follow a lost answer: the lease is gone after it, whichever caller got that answer.
            return None if operation.outcome == YES and lease not in self.held else self._without(lease)
        fits = sum(count for _, count in self.held) + operation.connections <= self.allowed
        if operation.outcome == NO:
            return self if not (fits and exact_refusals) else None
        return self._replace(held=self.held | {lease}) if fits and lease not in self.held else None

    def _without(self, lease: tuple[str, int]) -> Budget:
        return self._replace(held=self.held - {lease})


class _Moment:
    """A call or a return in the list of those not yet placed."""

    __slots__ = ("after", "before", "index", "is_call", "match")

    def __init__(self, index: int, *, is_call: bool) -> None:
        self.index = index
        self.is_call = is_call
        self.before: _Moment | None = None
        self.after: _Moment | None = None
        self.match: _Moment | None = None

    def unlink(self) -> None:
        """Take it out; it remembers its place."""
        if self.before:
            self.before.after = self.after
        if self.after:
            self.after.before = self.before

    def relink(self) -> None:
        """Put it back: in the reverse order of taking out."""
        if self.before:
            self.before.after = self
        if self.after:
            self.after.before = self


def linearization(history: Sequence[Operation], allowed: int, *, exact_refusals: bool = True) -> list[Operation] | None:
    """Return an order of the operations that explains the history, or None.

    Args:
        history: operations in any order.
        allowed: the budget.
        exact_refusals: whether a refusal must fall on a moment when there was no room. With several shards it need not:
            they are asked one after the other.
    """
    head, known = _moments(history), sum(operation.outcome != UNKNOWN for operation in history)
    state, placed = Budget(allowed), 0
    tried = {(placed, state.held)}
    done: list[tuple[_Moment, Budget]] = []
    moment = head.after
    while known:
        if moment is not None and moment.is_call:
            operation = history[moment.index]
            following = state.after(operation, exact_refusals=exact_refusals)
            if following is not None and (placed | 1 << moment.index, following.held) not in tried:
                done.append((moment, state))
                state, placed = following, placed | 1 << moment.index
                tried.add((placed, state.held))
                known -= operation.outcome != UNKNOWN
                _unlink(moment)
                moment = head.after
            else:
                moment = moment.after
            continue
        if not done:  # a call has returned, or all are stuck, and nothing placed before can be placed otherwise
            return None
        moment, state = done.pop()
        placed &= ~(1 << moment.index)
        known += history[moment.index].outcome != UNKNOWN
        _relink(moment)
        moment = moment.after
    return [history[moment.index] for moment, _ in done]


def _moments(history: Sequence[Operation]) -> _Moment:
    """Return the calls and returns in the order of time; those of unknown outcome never return."""
    events = []
    for index, operation in enumerate(history):
        call, back = _Moment(index, is_call=True), _Moment(index, is_call=False)
        call.match = back
        events.append((operation.called_ns, 0, index, call))
        never = operation.outcome == UNKNOWN
        events.append((2**63 if never else operation.returned_ns, 1, index, back))
    head = last = _Moment(-1, is_call=False)
    for *_, moment in sorted(events, key=lambda event: event[:3]):
        last.after, moment.before = moment, last
        last = moment
    return head


def _unlink(call: _Moment) -> None:
    call.unlink()
    assert call.match is not None
    call.match.unlink()


def _relink(call: _Moment) -> None:
    assert call.match is not None
    call.match.relink()
    call.relink()
