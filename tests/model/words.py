"""A trace in words: what happened, and after each step what the shards then hold."""

from __future__ import annotations

from tests.model.state import ABSENT, ASK, LEAVE, RENEW, Label, Plan, Request, Shard, State, Story

SENDS = {
    ASK: "acquires {size} on shard {shard}",
    RENEW: "renews its lease on shard {shard}",
    LEAVE: "releases its lease on shard {shard}",
}
DOES = {
    "a client vanishes": "a client of shard {1.shard} vanishes",
    "time passes": "the end of a lease on shard {0.shard} passes",
    "reclaims": "a lease on shard {0.shard} is reclaimed",
    "gives up the renewal": "a client gives up its renewal on shard {0.shard}",
    "asks again with a new id": "a client that waits for shard {0.shard} starts again with a new id",
    "settings": "settings: {0}",
    "makes": "an executor of {1} makes shard {0}",
    "stamps": "an executor of {1} stamps shard {0}",
    "raises": "an executor of {1} raises shard {0}",
}


def in_words(trace: tuple[tuple[Label, State], ...]) -> str:
    """Return one line a step."""
    return "\n".join(f"{n}. {_label_in_words(label)}\n     {_shown(state)}" for n, (label, state) in enumerate(trace))


def _label_in_words(label: Label) -> str:
    what, *about = label
    if what in ("sends", "a late duplicate"):
        request, outcome, story, *more = about
        assert isinstance(request, Request)
        assert isinstance(story, Story)
        sender = "a client" if what == "sends" else "a late duplicate"
        does = SENDS[request.kind].format(size=story.size, shard=story.shard)
        return f"{sender} {does}: {', '.join(map(str, (outcome, *more)))}"
    return DOES.get(str(what), "begins").format(*map(_named, about))


def _named(thing: object) -> object:
    return f"plan {thing.budget} over {thing.shards}" if isinstance(thing, Plan) else thing


def _shown(state: State) -> str:
    return "   ".join(_shard(index, shard, state) for index, shard in enumerate(state.shards))


def _shard(index: int, shard: Shard | None, state: State) -> str:
    if shard is None:
        return f"shard {index}: no item"
    leases = [story for story in state.stories if story.shard == index and story.end != ABSENT]
    shown = ", ".join(f"{story.size}{'' if story.end > 0 else ' past its end'}" for story in leases)
    return f"shard {index}: allowed {shard.allowed}, remaining {shard.remaining}, lends [{shown}]"
