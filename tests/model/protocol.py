"""The protocol as a transition system: all moves, and which states are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.model.holders import Holders, in_order
from tests.model.operators import Operators, renumbered
from tests.model.promises import Promises
from tests.model.state import ABSENT, ASK, LEAVE, RENEW, Move, Plans, Request, Shards, State, Story, World, in_force

if TYPE_CHECKING:
    from collections.abc import Iterator


class Protocol:
    """What the checker needs: starts, next states, which states are the same, and broken promises."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._holders = Holders(world)
        self._operators = Operators(world)
        self._promises = Promises(world, self._operators)
        self._plainly: dict[tuple[Shards, Plans], tuple[Shards, Plans, int]] = {}
        self._tidied: dict[tuple[Story, int], Story | None] = {}
        self.wrong = self._promises.wrong
        self.wrong_step = self._promises.wrong_step

    def initial(self) -> list[State]:
        """Return each start of the world."""
        return [self.canonical(self.world.start(start)) for start in self.world.starts]

    def moves(self, state: State) -> Iterator[Move]:
        """Yield every next state, not yet canonical."""
        yield from self._holders.moves(state)
        yield from self._operators.moves(state)

    def canonical(self, state: State) -> State:
        """Return one state for all that differ only in names (clients, ids, times, plan numbers) or dead history."""
        key = (state.shards, state.plans)
        if key not in self._plainly:
            self._plainly[key] = self._plain(*key)
        shards, plans, carried = self._plainly[key]
        lasting = state.lasting if state.lasting > carried else 0
        highest = max(lasting, carried)
        stories = sorted(story for old in state.stories if (story := self._tidy(old, highest)))
        return State(shards, tuple(stories), plans, lasting)

    def _plain(self, shards: Shards, plans: Plans) -> tuple[Shards, Plans, int]:
        """Return shards and plans without what no condition reads, such as fences."""
        if "move" in self.world.features:
            shards, plans = renumbered(self._operators.marked(shards, plans), plans)
        shards = tuple(shard and shard._replace(fence=0) for shard in shards)
        return shards, plans, in_force(shards, plans)

    def _tidy(self, story: Story, in_force: int) -> Story | None:
        key = (story, in_force)
        if key not in self._tidied:
            self._tidied[key] = tidied(story, in_force, remember=bool(self.world.broken))
        return self._tidied[key]


def tidied(story: Story, in_force: int, *, remember: bool) -> Story | None:
    """Return the story without what can never matter again; None if nothing is left of it."""
    clients = tuple(client for client in story.clients if not _is_over(story, client))
    strays = tuple(stray for stray in story.strays if remember or stray.kind == ASK or _may_be_stored(story, stray))
    story = story._replace(
        clients=clients,
        strays=strays,
        budget=max(story.budget, in_force) if story.end > 0 else 0,
        seen=story.end if remember and ABSENT < story.end <= 0 else story.seen,
    )
    if story.end == story.seen == ABSENT and not clients and not strays:
        return None
    return in_order(story)


def _is_over(story: Story, client: Request) -> bool:
    """Return whether a client's wait is over in effect: a release of no stored lease, an acquire equal to a new one."""
    if client.kind == LEAVE:
        return not _may_be_stored(story, client)
    return client == Request(ASK, client.end) and client.end > 0 and story[2:] == (ABSENT, 0, (client,), (), ABSENT)


def _may_be_stored(story: Story, request: Request) -> bool:
    """Return whether the record that a renew or release names is stored, or may be stored again by a late request."""
    return story.end == request.end or any(
        (other.kind == ASK and other.end == request.end) or (other.kind == RENEW and other.later == request.end)
        for other in (*story.clients, *story.strays)
    )
