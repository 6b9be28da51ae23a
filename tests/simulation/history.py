"""One request and its answer as a line that a person can read: who, what, which shard, until when, what came of it.

grant #0 k3Zq81Bd 1x until 12.345 -> left 2 of 5
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connection_governor.core.lease import Settings, Shard, ShardKey
from connection_governor.core.plan import Change
from connection_governor.core.store import Unwritten, Written
from tests.simulation.ledger import connections, end_ms
from tests.support.hub import MS, SECOND, START_US

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.network import Request

RECORD_LENGTHS = range(9, 18)


def line_of(request: Request, answer: object) -> str:
    """Return the line."""
    stray = " (stray)" if request.stray else ""
    return f"{request.sender.name} {request.verb}{stray} {_words(request.arguments)} -> {_shown(answer)}"


def seconds(now_us: int) -> str:
    """Return a moment, in seconds since the world began."""
    return f"{(now_us - START_US) / SECOND:.3f}"


def _words(value: Any) -> str:  # noqa: ANN401 - any argument of the store
    if isinstance(value, tuple | list):
        return " ".join(word for word in map(_words, value) if word)
    return _shown(value)


def _shown(value: Any) -> str:  # noqa: ANN401 - any argument or answer of the store
    for kind, show in _FORMS.items():
        if isinstance(value, kind):
            return show(value)
    return str(value)


def _text(text: str) -> str:
    is_record = len(text) in RECORD_LENGTHS and text.startswith("PB")
    return f"{connections(text)}x until {seconds(end_ms(text) * MS)}" if is_record else text


def _shard(shard: Shard) -> str:
    leases = ", ".join(f"{lease_id} {_text(record)}" for lease_id, record in shard.leases.items()) or "no lease"
    return f"[#{shard.key.index} left {shard.remaining} of {shard.allowed}, plan {shard.plan}: {leases}]"


_FORMS: dict[type[Any], Callable[[Any], str]] = {
    Written: lambda written: f"left {written.remaining} of {written.allowed}",
    Unwritten: lambda unwritten: f"no: {_shown(unwritten.shard)}",
    Shard: _shard,
    ShardKey: lambda key: f"#{key.index}",
    Settings: lambda settings: f"plan {settings.plan}: {settings.allowed} in {settings.shards}",
    Change: lambda change: f"#{change.key.index} {change.allowed_as_read} to {change.allowed}",
    str: _text,
    tuple: _words,
    list: _words,
}
