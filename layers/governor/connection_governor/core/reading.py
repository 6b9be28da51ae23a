"""Read several shards, and keep what one try has read while the next asks for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.store import PartlyReadError
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Shard, ShardKey
    from connection_governor.core.retry import Retry, RetryPolicy
    from connection_governor.core.store import LeaseStore


class Reading:
    """One read of several shards; calling it is one try, which asks only for what no earlier try has read.

    Args:
        store: where the shards are.
        keys: which.
        consistent: whether strongly.
    """

    def __init__(self, store: LeaseStore, keys: Sequence[ShardKey], *, consistent: bool) -> None:
        self._store = store
        self._keys = keys
        self._consistent = consistent
        self._found: dict[ShardKey, Shard | None] = {}

    def __call__(self) -> list[Shard | None]:
        """Return the shards in the order asked; None for a missing one.

        Raises:
            GovernorUnavailable: some could not be read; the rest is kept for the next try.
        """
        left = [key for key in self._keys if key not in self._found]
        try:
            self._found.update(zip(left, self._store.read(left, consistent=self._consistent), strict=True))
        except PartlyReadError as partly:
            self._found.update(partly.found)
            raise
        return [self._found[key] for key in self._keys]

    def to_the_end(self, retry: Retry, policy: RetryPolicy, deadline: Deadline | None = None) -> list[Shard | None]:
        """Try again while each round of tries reads something more.

        Raises:
            GovernorUnavailable: a whole round of tries read nothing, or the deadline has passed.
        """
        while True:
            before = len(self._found)
            try:
                return retry(self, policy, deadline)
            except GovernorUnavailable:
                if len(self._found) == before or (deadline is not None and deadline.has_passed()):
                    raise
