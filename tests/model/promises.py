"""What must hold in every state and at every step: promises 1, 3, 4 and 6; of 2, what needs no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.state import ABSENT, HOLD, RENEW, Label, Plan, Shard, State, World

if TYPE_CHECKING:
    from tests.model.operators import Operators


class Promises:
    """Returns the promise that a state or a step breaks; None if it breaks none."""

    def __init__(self, world: World, operators: Operators) -> None:
        self._world = world
        self._operators = operators
        self._nothing_is_given_up = world.features.isdisjoint({"late", "crash", "freeze", "renew"})
        self._recovering: dict[tuple[object, ...], str | None] = {}

    def wrong(self, state: State) -> str | None:
        """Return the first promise that this state breaks."""
        return self._over_grant(state) or self._counter_drifted(state) or self._misled(state) or self._lost(state)

    def wrong_step(self, before: State, after: State, label: Label) -> str | None:
        """Return the first promise that this step breaks, for rules about steps: fences grow, a renew never shortens.

        A release removes a record and a renew replaces it by a later one, so that neither can take effect a second time
        unless the lease was granted again.
        """
        if label[0] == "time passes":
            return None
        granted = {
            new.shard
            for at, new in enumerate(after.stories)
            if new.end != ABSENT and (at >= len(before.stories) or before.stories[at].end == ABSENT)
        }
        for index, (old, new) in enumerate(zip(before.shards, after.shards, strict=True)):
            if old and new and new.fence < old.fence + (index in granted):
                return f"the fence of shard {index} did not grow"
        for was, now in zip(before.stories, after.stories, strict=False):
            if ABSENT not in (was.end, now.end) and now.end < was.end:
                return "a late renew made a lease shorter"
        return None

    def _over_grant(self, state: State) -> str | None:
        """Check promise 1: live leases, against the highest budget in force since the oldest of them was written."""
        live = [story for story in state.stories if story.end > 0]
        lent, allowed = sum(story.size for story in live), max([state.in_force, *(story.budget for story in live)])
        return f"over-grant: {lent} are lent, and no more than {allowed} were ever allowed" if lent > allowed else None

    def _counter_drifted(self, state: State) -> str | None:
        """Check promise 4: the counter equals the leases, in every shard."""
        for index, shard in enumerate(state.shards):
            held = sum(story.size for story in state.stories if story.shard == index and story.end != ABSENT)
            if shard and shard.allowed - shard.remaining != held:
                return f"the counter of shard {index} says {shard.allowed - shard.remaining}, its leases hold {held}"
        return None

    def _misled(self, state: State) -> str | None:
        """Check that a client has the lease it believes in, alone; and promise 3: one acquire leaves one lease."""
        for story in state.stories:
            believers = [client for client in story.clients if client.kind in (HOLD, RENEW) and client.end > 0]
            if any(story.end < client.end for client in believers):
                return "a client believes in a lease that is not stored"
            if len(believers) > 1:
                return "two clients hold one lease"
            if self._nothing_is_given_up and story.end > 0 and not story.clients:
                return "a retry left a second lease behind, which no client knows"
        return None

    # ---- promise 2 and promise 6: nothing is lost for good, and a half-done plan can be finished

    def _lost(self, state: State) -> str | None:
        """Check promise 2: with every holder gone, all of the last plan can be granted without the janitor."""
        key = (state.shards, state.plans)
        if key not in self._recovering:
            self._recovering[key] = self._unfinished(state)
        return self._recovering[key]

    def _unfinished(self, state: State) -> str | None:
        """Check that a refused caller settles the last plan if a shard it saw is short; all then have their share."""
        last = state.plans[-1]
        if not any(self._is_short(shard, last, index) for index, shard in enumerate(state.shards)):
            lendable = sum(shard.allowed for shard in state.shards[: last.shards] if shard)
            return None if lendable >= last.budget else "lost for good: no refused caller has a reason to settle"
        settled = self._settled(state)
        shares = tuple(last.share(index) for index in range(last.made))
        left = tuple(shard.allowed if shard else 0 for shard in settled.shards[: last.made])
        return None if left == shares else f"a half-done plan cannot be finished: {left} instead of {shares}"

    def _is_short(self, shard: Shard | None, last: Plan, index: int) -> bool:
        """Return whether a refusal shows that this shard lacks capacity; a missing one does, if the plan uses it."""
        if shard is None:
            return index < last.shards and self._world.broken != "a missing shard is not short"
        return shard.allowed < last.share(index)

    def _emptied(self, shard: Shard) -> Shard:
        """Return the shards emptied: all by a plan that reclaims; else only shards in use, by takeovers."""
        if self._world.broken == "a plan reclaims nothing" and shard.allowed == 0:
            return shard
        return shard._replace(remaining=shard.allowed)

    def _settled(self, state: State) -> State:
        """Return the state after one executor alone reclaims everything and carries out the last plan."""
        number = len(state.plans) - 1
        empty = tuple(shard and self._emptied(shard) for shard in state.shards)
        state = state._replace(shards=self._operators.marked(empty, state.plans), stories=())
        while True:
            moves = [*self._operators.stamps(state, number), *self._operators.raises(state, number)]
            if not moves:
                return state
            after = moves[-1][1]
            state = after._replace(shards=self._operators.marked(after.shards, after.plans))
