"""The simulated table: the production `MemoryStore`, seen through a network, with reads that lag behind."""

from __future__ import annotations

from functools import partialmethod
from typing import TYPE_CHECKING, Any, Protocol

from connection_governor.core.memory import MemoryStore
from tests.simulation.network import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Settings, Shard, ShardKey
    from connection_governor.core.store import LeaseStore
    from tests.simulation.ledger import Ledger
    from tests.simulation.network import Network
    from tests.support.hub import Process
    from tests.support.versions import Versions


class Table(Protocol):
    """What stands behind the network."""

    def deliver(self, request: Request) -> object:
        """Carry a request out at once, atomically; an exception is returned, not raised."""

    def store_of(self, process: Process, network: Network) -> LeaseStore:
        """Return the table as an environment reaches it."""


class MemoryTable:
    """`MemoryStore` as the table. Its own code applies every request; the ledger sees each change.

    Args:
        versions: what lagging reads show.
        ledger: checks each change.
    """

    def __init__(self, versions: Versions, ledger: Ledger) -> None:
        self._store = MemoryStore()
        self._versions = versions
        self._ledger = ledger
        self._reads: dict[str, Callable[..., object]] = {"read": self._read, "settings": self._settings}

    def deliver(self, request: Request) -> object:
        """See `Table.deliver`."""
        read = self._reads.get(request.verb)
        if read is not None:
            return read(*request.arguments, sent_us=request.sent_us)
        if request.verb == "save_settings":
            return self._save_settings(*request.arguments)
        key = getattr(request.arguments[0], "key", request.arguments[0])
        before = self._store._shards.get(key)
        answer: object = getattr(self._store, request.verb)(*request.arguments)
        after = self._store._shards.get(key)
        if after is not None and after is not before:
            self._versions.note(key, after)
            self._ledger.changed(before, after, request)
        return answer

    def store_of(self, process: Process, network: Network) -> LeaseStore:
        """See `Table.store_of`."""
        return NetworkStore(process, network)

    def _read(self, keys: tuple[ShardKey, ...], consistent: bool, *, sent_us: int) -> list[Shard | None]:
        if len(keys) == 1 and consistent:
            return self._store.read(keys, consistent=True)
        if consistent:
            return [self._versions.since(key, sent_us) for key in keys]
        return [self._versions.lagging(key) for key in keys]

    def _settings(self, database: str, consistent: bool, *, sent_us: int) -> Settings | None:  # noqa: ARG002 - one item
        if consistent:
            return self._store.settings(database, consistent=True)
        lagging: Settings | None = self._versions.lagging(database)
        return lagging

    def _save_settings(self, settings: Settings, plan_as_read: int | None) -> bool:
        saved = self._store.save_settings(settings, plan_as_read=plan_as_read)
        if saved:
            self._versions.note(settings.database, settings)
            self._ledger.settings_saved(settings)
        return saved


class NetworkStore:
    """A `LeaseStore` whose every method is one request over the network."""

    def __init__(self, process: Process, network: Network) -> None:
        self._process = process
        self._network = network

    def within(self, _deadline: Deadline | None) -> LeaseStore:
        """See `LeaseStore.within`: the network decides how long a request takes."""
        return self

    def _call(self, verb: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any verb of the store
        arguments += tuple(options.values())
        self._process.brink()
        return self._network.call(Request(self._process, verb, arguments, self._process.call, self._process.stray))

    grant = partialmethod(_call, "grant")
    remove = partialmethod(_call, "remove")
    renew = partialmethod(_call, "renew")
    read = partialmethod(_call, "read")
    settings = partialmethod(_call, "settings")
    save_settings = partialmethod(_call, "save_settings")
    make_shard = partialmethod(_call, "make_shard")
    stamp = partialmethod(_call, "stamp")
    raise_allowed = partialmethod(_call, "raise_allowed")
