"""The moves of operators, the janitor and every other executor of a plan: settings, stamps, raises, reclaims.

A stamp depends on nothing but the item that it changes, so it is one step. A raise depends on what was read of every
shard, each at a time of its own, by any number of executors which may since have slept or died. All of their views are
kept together as `Mark`s: the least and the most that anyone can have read of a shard while it carried the plan. So one
step stands for every executor, however many there are, and allows what the most daring of them would do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.holders import remove
from tests.model.state import ABSENT, Mark, Move, Plan, Plans, Shard, Shards, State, World, oldest, put

if TYPE_CHECKING:
    from collections.abc import Iterator


class Operators:
    """The moves that change budgets or reclaim expired leases."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.on = world.features.__contains__
        self.bad = world.broken.__eq__

    def moves(self, state: State) -> Iterator[Move]:
        """Yield every next state."""
        if self.on("move"):
            yield from self._settings(state)
            for number in range(len(state.plans)):
                yield from self.stamps(state, number)
                yield from self.raises(state, number)
        if self.on("move") or self.on("janitor"):
            yield from self.reclaims(state)

    def _settings(self, state: State) -> Iterator[Move]:
        """Yield the next plan: its write requires the plan number that was read, so plans never fork."""
        last = state.plans[-1]
        for budget, shards in self.world.choices if len(state.plans) <= self.world.ahead else ():
            if (budget, shards) != last[:2]:
                plan = Plan(budget, shards, max(last.made, shards))
                yield ("settings", plan), state._replace(plans=(*state.plans, plan))

    def stamps(self, state: State, number: int) -> Iterator[Move]:
        """Yield the stamps: create missing shards; stamp each shard of an older plan, and lower it to its share."""
        plan = state.plans[number]
        missing = [index for index in range(self._made(plan)) if state.shards[index] is None]
        for index in missing:
            yield ("makes", index, plan), state._replace(shards=put(state.shards, index, Shard(0, 0, 0, number)))
        ready = not missing or self.bad("missing shards are passed over")
        for index, shard in enumerate(state.shards[: plan.made] if ready else ()):
            if shard is None:
                continue
            if shard.plan < number or (self.bad("an older plan may stamp") and shard.plan > number):
                allowed = self._stamped(shard, plan.share(index))
                if allowed is not None:
                    stamped = self._resized(shard, allowed, number)
                    shards = put(state.shards, index, stamped)
                    yield ("stamps", index, plan), state._replace(shards=shards, lasting=self._lasting(state, shards))

    def _lasting(self, state: State, shards: Shards) -> int:
        """Return the budgets in force beyond the plans that shards carry: until one plan is on every shard."""
        if len({shard.plan for shard in shards if shard}) == 1 or self.bad("shards may carry different later plans"):
            return 0
        passed = state.plans[oldest(state.shards) : oldest(shards)]
        return max([state.lasting, *(plan.budget for plan in passed)])

    def raises(self, state: State, number: int) -> Iterator[Move]:
        """Yield each raise, to each height, that some executor's view allows."""
        plan = state.plans[number]
        for index, shard in enumerate(state.shards[: plan.made]):
            if shard is None or not self._carries(shard, plan, index, number):
                continue
            others = self._taken_by_others(state, index, number)
            mark = _mark(shard, number)
            if others is None or mark is None:
                continue
            target = plan.budget - others  # its own committed part cancels out, however old the view of it is
            if self.bad("raise up to what was in use"):
                target = max(target, mark.high)
            target = min(target, plan.share(index))
            for allowed in range(shard.allowed + 1, target + 1):
                raised = self._resized(shard._replace(marks=_without_high(shard, number)), allowed, number)
                yield ("raises", index, plan), state._replace(shards=put(state.shards, index, raised))

    def _taken_by_others(self, state: State, index: int, number: int) -> int | None:
        """Return the least that any executor of this plan can count for the other shards; None if none can be so far.

        In strict index order: an executor raises a shard only after those before it have their whole share.
        """
        plan, total = state.plans[number], 0
        for other, shard in enumerate(state.shards[: plan.made]):
            if other == index or (shard is None and other >= self._made(plan)):
                continue
            mark = _mark(shard, number) if shard else None
            before = other < index and not self.bad("raises in any order")
            if mark is None or (before and not mark.full):
                return None
            total += max(plan.share(other), mark.low) if before else mark.low
        return total

    def reclaims(self, state: State) -> Iterator[Move]:
        """Yield the removal of any expired lease, exactly as seen. Several in one write equal one after the other."""
        for at, story in enumerate(state.stories):
            seen = story.seen != ABSENT and self.bad("reclaim compares the id alone")
            if ABSENT < story.end <= 0 or (seen and story.end != ABSENT):
                yield ("reclaims", story), remove(state, at)

    # ---- how a shard is changed, and by whom

    def _stamped(self, shard: Shard, share: int) -> int | None:
        if self.bad("raise before all are lowered"):
            return share
        if self.bad("raise without stamping all") and share >= shard.allowed:
            return None
        return min(shard.allowed, share)

    def _resized(self, shard: Shard, allowed: int, number: int) -> Shard:
        remaining = shard.remaining + allowed - shard.allowed
        if self.bad("a budget change sets the counter") and allowed < shard.allowed:
            remaining = allowed  # as for a shard that was read before anything was lent
        return shard._replace(allowed=allowed, remaining=remaining, plan=number)

    def _made(self, plan: Plan) -> int:
        return plan.shards if self.bad("missing shards are passed over") else plan.made

    def _carries(self, shard: Shard, plan: Plan, index: int, number: int) -> bool:
        """Return whether an executor of the plan that reads this shard now may count on it."""
        unstamped = self.bad("raise without stamping all") and shard.plan < number
        return shard.plan == number or (unstamped and shard.allowed <= plan.share(index))

    # ---- what may have been read

    def marked(self, shards: Shards, plans: Plans) -> Shards:
        """Return the shards with the reads that are now possible, without those that can never matter again."""
        rows = [
            [self._noted(shard, index, number, plans[number]) for index, shard in enumerate(shards)]
            for number in range(len(plans))
        ]
        open_rows = [row for number, row in enumerate(rows) if self._may_raise(shards, plans[number], number)]
        return tuple(
            shard and shard._replace(marks=tuple(mark for row in open_rows if (mark := row[index])))
            for index, shard in enumerate(shards)
        )

    def _noted(self, shard: Shard | None, index: int, number: int, plan: Plan) -> Mark | None:
        """Return one shard's marks under one plan, with the reads that are possible now."""
        if shard is None or index >= plan.made:
            return None
        old = _mark(shard, number)
        if not self._carries(shard, plan, index, number):
            return old and old._replace(high=0)
        full = shard.allowed >= plan.share(index)
        if old is None:
            return Mark(number, shard.committed, 0 if full else shard.committed, full)
        high = 0 if full else max(old.high, shard.committed)
        return Mark(number, min(old.low, shard.committed), high, old.full or full)

    def _may_raise(self, shards: Shards, plan: Plan, number: int) -> bool:
        """Return whether anyone can yet raise a shard under this plan."""
        return any(
            shard is None or shard.plan < number or (shard.plan == number and shard.allowed < plan.share(index))
            for index, shard in enumerate(shards[: plan.made])
        )


def _mark(shard: Shard, number: int) -> Mark | None:
    return next((mark for mark in shard.marks if mark.plan == number), None)


def _without_high(shard: Shard, number: int) -> tuple[Mark, ...]:
    """Return the marks without what was committed with an earlier `allowed`: such a write would fail."""
    return tuple(mark._replace(high=0) if mark.plan == number else mark for mark in shard.marks)


def renumbered(shards: Shards, plans: Plans) -> tuple[Shards, Plans]:
    """Return the same without the plans that no executor can write any more, the others counted from 0."""
    missing = [index for index, shard in enumerate(shards) if shard is None]
    makers = [number for number, plan in enumerate(plans) if any(index < plan.made for index in missing)]
    first = min([oldest(shards), *makers])
    if not first:
        return shards, plans
    return tuple(shard and _counted_from(shard, first) for shard in shards), plans[first:]


def _counted_from(shard: Shard, first: int) -> Shard:
    marks = tuple(mark._replace(plan=mark.plan - first) for mark in shard.marks if mark.plan >= first)
    return shard._replace(plan=shard.plan - first, marks=marks)
