"""What items were a moment ago: an eventually consistent read may show any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.support.hub import Hub

T = TypeVar("T")

PARTLY_READ = 0.1


class Versions:
    """The recent versions of items, for reads that are only eventually consistent.

    Args:
        hub: the virtual time.
        random: how far each read lags.
        lag_us: how far at most.
        power: how rare long lags are: the share of `lag_us` is a number in [0, 1) to this power.
        most: how many versions of an item are kept.
    """

    def __init__(self, hub: Hub, random: Random, lag_us: int, *, power: int = 2, most: int = 12) -> None:
        self._hub = hub
        self._random = random
        self._lag_us = lag_us
        self._power = power
        self._most = most
        self._kept: dict[object, list[tuple[int, Any]]] = {}

    def note(self, key: object, value: object, *, first: object = None) -> None:
        """Note an item's new version; `first` is the one before, where no version was noted yet."""
        kept = self._kept.setdefault(key, [(0, first)])
        kept.append((self._hub.now_us, value))
        if len(kept) > self._most:
            del kept[0]

    def lagging(self, key: object) -> Any:  # noqa: ANN401 - an item of either store
        """Return the item as it was a moment ago: a whole version, never older than the lag allows."""
        return self._as_of(key, self._hub.now_us - int(self._random.random() ** self._power * self._lag_us))

    def since(self, key: object, sent_us: int) -> Any:  # noqa: ANN401 - an item of either store
        """Return the item as of some moment since the request was sent: several items are read at several moments."""
        return self._as_of(key, self._hub.now_us - int(self._random.random() * (self._hub.now_us - sent_us)))

    def unread(self, keys: Sequence[T]) -> list[T]:
        """Return what DynamoDB leaves unprocessed of a batch: now and then a part of it."""
        if self._random.random() >= PARTLY_READ:
            return []
        return [key for key in keys if self._random.random() < 0.5]

    def _as_of(self, key: object, seen_us: int) -> Any:  # noqa: ANN401 - an item of either store
        kept = self._kept.get(key, [(0, None)])
        for since_us, value in reversed(kept):
            if since_us <= seen_us:
                return value
        return kept[0][1]
