"""The state of the model's world: a few shards, the plans under way, and all knowledge of each lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")

ASK, HOLD, RENEW, LEAVE = "ask", "hold", "renew", "leave"
ABSENT = -99  # in place of an end: not stored
FEATURES = ("lost", "late", "crash", "freeze", "renew", "janitor", "several", "move")


class Request(NamedTuple):
    """What a client waits for (or, as HOLD, what it has), or a late duplicate of what it once sent.

    An `end` names one exact record of the lease. Ends above 0 are still to come; from 0 down they are past on every
    clock, the allowance for skew included. Only the order of one lease's ends counts, so they stay small.
    """

    kind: str
    end: int
    later: int = ABSENT  # RENEW: the end wanted


class Story(NamedTuple):
    """All knowledge of one lease id; its name is therefore not needed."""

    shard: int
    size: int
    end: int = ABSENT  # of the record that the shard stores
    budget: int = 0  # the highest that was in force since that record was written; of live leases only
    clients: tuple[Request, ...] = ()  # one; two where an id is used twice
    strays: tuple[Request, ...] = ()  # duplicates on the way, which may arrive at any time, again and again
    seen: int = ABSENT  # the expiry with which a client once read it as past (broken variants only)


class Mark(NamedTuple):
    """What any executor of a plan may have read of a shard while that carried the plan: its reads, as old as may be."""

    plan: int
    low: int  # the least that was committed
    high: int  # the most that was committed together with the present `allowed`
    full: bool  # whether it has had its whole share


class Shard(NamedTuple):
    """One item."""

    allowed: int
    remaining: int
    fence: int
    plan: int
    marks: tuple[Mark, ...] = ()

    @property
    def committed(self) -> int:
        """Return what no other shard may have: its part, or its connections in use if that is more."""
        return max(self.allowed, self.allowed - self.remaining)


class Plan(NamedTuple):
    """What the settings say: `made` is how many indexes were ever in use."""

    budget: int
    shards: int
    made: int

    def share(self, index: int) -> int:
        """Return a shard's part of the budget."""
        each, rest = divmod(self.budget, self.shards)
        return each + (index < rest) if index < self.shards else 0


Shards = tuple[Shard | None, ...]
Plans = tuple[Plan, ...]


class State(NamedTuple):
    """Everything. A plan's number is its place in `plans`; the first is the oldest that anyone can still write."""

    shards: Shards
    stories: tuple[Story, ...]
    plans: Plans
    lasting: int = 0  # the highest budget still in force of plans that no shard carries any more

    @property
    def in_force(self) -> int:
        """The highest budget in force: each from when settings name it until one later plan has stamped every shard."""
        return max(self.lasting, in_force(self.shards, self.plans))


def in_force(shards: Shards, plans: Plans) -> int:
    """Return the highest budget of the oldest plan that a shard carries, and of all later ones."""
    return max(plan.budget for plan in plans[oldest(shards) :])


def oldest(shards: Shards) -> int:
    """Return the number of the oldest plan that a shard carries."""
    return min(shard.plan for shard in shards if shard)


@dataclass(frozen=True)
class World:
    """The size of one exploration, its features, and the rule that is deliberately broken."""

    features: frozenset[str] = frozenset()
    broken: str = ""
    clients: int = 2
    sizes: tuple[int, ...] = (1,)
    starts: tuple[tuple[int, int, int], ...] = ((2, 1, 1), (2, 2, 2))  # budget, shards, made
    choices: tuple[tuple[int, int], ...] = ((2, 1), (2, 2), (1, 1))  # what operators may ask for: budget, shards
    indexes: int = 2
    strays: int = 1
    ahead: int = 2  # how many plans may be under way at once
    twins: bool = False  # whether a client may use another's lease id

    def start(self, start: tuple[int, int, int]) -> State:
        """Return a settled budget, with nothing lent."""
        plan = Plan(*start)
        made = tuple(Shard(plan.share(i), plan.share(i), 0, 0) for i in range(plan.made))
        return State(made + (None,) * (self.indexes - plan.made), (), (plan,))


Label = tuple[object, ...]
Move = tuple[Label, State]


def put(row: tuple[T, ...], at: int, new: T) -> tuple[T, ...]:
    """Return the row with one place changed."""
    return (*row[:at], new, *row[at + 1 :])
