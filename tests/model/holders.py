"""What holders, their late duplicates and time may do: acquire, take over, renew, release.

A request and its effect are one step. Nothing is lost by that: a request's content is fixed when it is sent, so sending
it later, or letting it arrive late as a stray, comes to the same. A takeover names exact records, which are past their
end forever; whenever such a write takes effect, what it names is stored and past its end at that moment. So it is no
other than a takeover decided at that very moment, and reading first need not be a step of its own.
"""

from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING

from tests.model.state import ABSENT, ASK, HOLD, LEAVE, RENEW, Move, Request, State, Story, World, put

if TYPE_CHECKING:
    from collections.abc import Iterator


class Holders:
    """The moves of clients, of strays and of time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.on = world.features.__contains__
        self.bad = world.broken.__eq__

    def moves(self, state: State) -> Iterator[Move]:
        """Yield every next state."""
        yield from self._newcomers(state)
        for at, story in enumerate(state.stories):
            for client in story.clients:
                yield from self._client(state, at, client)
            for stray in story.strays:
                for what, after in self.effects(state, at, stray):
                    yield ("a late duplicate", stray, what, story), after
            if self._may_end(story):
                yield ("time passes", story), state._replace(stories=put(state.stories, at, earlier(story)))

    # ---- what each client may do next

    def _newcomers(self, state: State) -> Iterator[Move]:
        if sum(len(story.clients) for story in state.stories) == self.world.clients:
            return
        for index, shard in enumerate(state.shards):
            for size in self.world.sizes if shard else ():
                new = state._replace(stories=(*state.stories, Story(index, size)))
                yield from self._send(new, len(state.stories), None, Request(ASK, 1))
        for at, story in enumerate(state.stories if self.world.twins else ()):
            if story.clients:
                yield from self._send(state, at, None, Request(ASK, _next_end(story)))

    def _client(self, state: State, at: int, client: Request) -> Iterator[Move]:
        story = state.stories[at]
        if client.kind == HOLD:
            yield from self._send(state, at, client, Request(LEAVE, client.end))
            if self.on("renew"):
                yield from self._send(state, at, client, Request(RENEW, client.end, _next_end(story)))
        elif self.bad("a retry has a new id") and client.kind == ASK:
            yield ("asks again with a new id", story), self._next(state, at, client, ())
        else:
            yield from self._send(state, at, client, client)
        if client.kind == ASK:
            yield from self._send(state, at, client, Request(LEAVE, client.end))
        if client.kind == RENEW:
            yield ("gives up the renewal", story), self._next(state, at, client, (Request(HOLD, client.end),))
        if self.on("crash") or client.end <= 0:
            yield ("a client vanishes", client, story), self._next(state, at, client, ())

    def _may_end(self, story: Story) -> bool:
        """Return whether the lease's next expiry may pass. A client that cannot freeze acts in time."""
        ends = [end for end in _ends(story) if end > 0]
        return bool(ends) and (self.on("freeze") or all(client.end != min(ends) for client in story.clients))

    # ---- a request on its way, and its answer

    def _send(self, state: State, at: int, client: Request | None, request: Request) -> Iterator[Move]:
        """Yield each fate of a request: takes effect or not, answer arrives or not, a copy stays on its way or not."""
        outcomes = list(self.effects(state, at, request))
        story = state.stories[at]
        for what, after in outcomes or [("refused", state)]:
            answered = self._answer(after.stories[at], request, took_effect=bool(outcomes))
            yield from self._copies(
                ("sends", request, what, story), self._next(after, at, client, answered), at, request
            )
            if self.on("lost") and outcomes:
                lost = self._next(after, at, client, (request,))
                yield from self._copies(("sends", request, what + ", answer lost", story), lost, at, request)
        if self.on("lost") or self.on("late"):
            waiting = self._next(state, at, client, (request,))
            copies = list(self._copies(("sends", request, "does not arrive yet", story), waiting, at, request))
            yield from copies if self.on("lost") else copies[1:]

    def _copies(self, label: tuple[object, ...], state: State, at: int, request: Request) -> Iterator[Move]:
        yield label, state
        if not self.on("late"):
            return
        strays = sum(len(story.strays) for story in state.stories)
        story = state.stories[at]
        if request in story.strays:
            return
        more = state._replace(stories=put(state.stories, at, story._replace(strays=(*story.strays, request))))
        if strays < self.world.strays:
            yield (*label, "a copy stays on the way"), more
            return
        for place, other in enumerate(state.stories):
            for stray in other.strays:
                left = tuple(each for each in more.stories[place].strays if each != stray)
                fewer = more.stories[place]._replace(strays=left)
                yield (*label, "a copy stays on the way"), more._replace(stories=put(more.stories, place, fewer))

    def _answer(self, story: Story, request: Request, *, took_effect: bool) -> tuple[Request, ...]:
        """Return the client's next state after an answer, which shows the shard if nothing was written."""
        if request.kind == ASK:
            same = story.end == request.end or (self.bad("an id is enough for a retry") and story.end != ABSENT)
            return (Request(HOLD, story.end),) if same else ()
        if request.kind == RENEW and took_effect:
            return (Request(HOLD, request.later),)
        if request.kind == RENEW and (story.end >= request.later or story.end == request.end):
            return (Request(HOLD, story.end),)  # renewed already; or refused, a lowered budget being overdrawn
        if request.kind == RENEW and story.end > request.end:
            return (Request(RENEW, story.end, request.later),)  # an earlier renew has moved it: again, from there
        if request.kind == LEAVE and story.end > request.end and self.on("renew"):
            return (Request(LEAVE, story.end),)  # a renew has moved it since: once more, as it is stored
        return ()

    @staticmethod
    def _next(state: State, at: int, before: Request | None, after: tuple[Request, ...]) -> State:
        story = state.stories[at]
        others = list(story.clients)
        if before is not None:
            others.remove(before)
        return state._replace(stories=put(state.stories, at, story._replace(clients=(*others, *after))))

    # ---- the conditional writes

    def effects(self, state: State, at: int, request: Request) -> Iterator[tuple[str, State]]:
        """Yield each way in which this request can change the store now; none if its condition fails."""
        story = state.stories[at]
        shard = state.shards[story.shard]
        if shard is None:
            return
        if request.kind == ASK:
            yield from self._grants(state, at, request)
        elif request.kind == RENEW:
            exact = story.end == request.end or (self.bad("renew compares the id alone") and story.end != ABSENT)
            if exact and (shard.remaining >= 0 or self.bad("renew needs no room")):
                renewed = story._replace(end=request.later, budget=state.in_force)
                yield "renewed", state._replace(stories=put(state.stories, at, renewed))
        elif story.end == request.end or (self.bad("release compares the id alone") and story.end != ABSENT):
            yield "released", remove(state, at)

    def _grants(self, state: State, at: int, request: Request) -> Iterator[tuple[str, State]]:
        story = state.stories[at]
        shard = state.shards[story.shard]
        if shard is None or (story.end != ABSENT and not self.bad("grant does not ask for a new id")):
            return
        for taken in self._takings(state.stories, at):
            left = shard.remaining - story.size + sum(state.stories[place].size for place in taken)
            if taken and self.bad("takeover leaves the counter alone"):
                left = shard.remaining
            elif left < 0 and not (taken and self.bad("takeover asks for no room")):
                continue
            stories = list(state.stories)
            for place in taken:
                stories[place] = stories[place]._replace(end=ABSENT)
            stories[at] = story._replace(end=request.end, budget=state.in_force)
            fence = shard.fence + (not (taken and self.bad("takeover leaves the fence alone")))
            written = shard._replace(remaining=left, fence=fence)
            what = f"granted, taking over {len(taken)}" if taken else "granted"
            yield what, state._replace(shards=put(state.shards, story.shard, written), stories=tuple(stories))

    def _takings(self, stories: tuple[Story, ...], at: int) -> Iterator[tuple[int, ...]]:
        """Yield the sets that one write may take over: none, one lease, or several if the world allows it."""
        past = [
            i for i, story in enumerate(stories) if story.shard == stories[at].shard and i != at and self._past(story)
        ]
        most = len(past) if self.on("several") else min(1, len(past))
        return chain.from_iterable(combinations(past, count) for count in range(most + 1))

    def _past(self, story: Story) -> bool:
        """Return whether a takeover may name this lease: it is stored exactly as seen, and expired."""
        if self.bad("takeover compares only the expiry"):
            return story.seen != ABSENT and story.end <= 0
        if self.bad("takeover without skew"):
            return ABSENT < story.end <= 1
        return ABSENT < story.end <= 0


def remove(state: State, at: int) -> State:
    """Return the shard without the lease, its counter grown by the record's connections, in one write."""
    story = state.stories[at]
    shard = state.shards[story.shard]
    assert shard is not None
    return state._replace(
        shards=put(state.shards, story.shard, shard._replace(remaining=shard.remaining + story.size)),
        stories=put(state.stories, at, story._replace(end=ABSENT)),
    )


def _ends(story: Story) -> set[int]:
    """Return every expiry of this lease that any party knows."""
    ends = {end for client in (*story.clients, *story.strays) for end in (client.end, client.later)}
    return (ends | {story.end, story.seen}) - {ABSENT}


def _next_end(story: Story) -> int:
    return max(0, *_ends(story)) + 1


def earlier(story: Story) -> Story:
    """Return the same, after the lease's next expiry has passed."""
    return moved(story, {end: end - 1 for end in _ends(story)})


def in_order(story: Story) -> Story:
    """Return the same with expiries renamed by their order: 1, 2, … to come and 0, -1, … past."""
    ends = _ends(story)
    to_come = sorted(end for end in ends if end > 0)
    past = sorted((end for end in ends if end <= 0), reverse=True)
    return moved(story, {end: place for place, end in enumerate(to_come, 1)} | {end: -n for n, end in enumerate(past)})


def moved(story: Story, ends: dict[int, int]) -> Story:
    """Return the same with other expiries."""

    def request(old: Request) -> Request:
        return Request(old.kind, ends[old.end], ends.get(old.later, ABSENT))

    return story._replace(
        end=ends.get(story.end, ABSENT),
        clients=tuple(sorted(map(request, story.clients))),
        strays=tuple(sorted(map(request, story.strays))),
        seen=ends.get(story.seen, ABSENT),
    )
