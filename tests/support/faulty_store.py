"""A store between the engine and a real one that loses requests, loses answers and repeats writes, as scripted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from connection_governor.core.store import Unwritten
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.deadline import Deadline
    from connection_governor.core.store import LeaseStore

READS = ("read", "settings")
WRITES = ("grant", "remove", "renew", "save_settings", "make_shard", "stamp", "raise_allowed")


@dataclass
class Fault:
    """What happens to one request.

    Attributes:
        applied: it arrives; else it is lost on the way.
        repeated: it arrives twice, and the answer to the first (`late`) or to the second comes back; else none does.
        throttled, retryable: of the `GovernorUnavailable` that is raised where no answer comes back.
    """

    applied: bool = False
    repeated: bool = False
    late: bool = True
    throttled: bool = False
    retryable: bool = True


LOST = Fault()
LOST_ANSWER = Fault(applied=True)
THROTTLED = Fault(throttled=True)
REFUSED = Fault(retryable=False)
TWICE = Fault(applied=True, repeated=True)
SENT_AGAIN = Fault(applied=True, repeated=True, late=False)


@dataclass
class FaultyStore:
    """Passes everything on to `inner`, but for the next calls that a test has faults for.

    Attributes:
        inner: the store behind.
        faults: method -> faults of its next calls, first first; None lets one pass.
        calls: every call that was made, as (method, arguments).
        before: method -> what to do once, just before the next call of it reaches the store: a rival's move, say.
        crash: after how many more writes the client is cut off for good, and whether the last one is still applied.
    """

    inner: LeaseStore
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    before: dict[str, Callable[[], object]] = field(default_factory=dict)
    crash: tuple[int, bool] | None = None

    def plan(self, method: str, *faults: Fault | None) -> None:
        """Inject these faults into the next calls of a method."""
        self.faults.setdefault(method, []).extend(faults)

    def methods(self) -> list[str]:
        """Return the names of the methods called, in order."""
        return [method for method, _ in self.calls]

    def within(self, _deadline: Deadline | None) -> LeaseStore:
        """See `LeaseStore.within`: this one answers at once, or never."""
        return self

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method not in READS + WRITES:
            raise AttributeError(method)
        return lambda *arguments, **options: self._call(method, arguments, options)

    def _call(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:  # noqa: ANN401 - any verb
        self.calls.append((method, arguments))
        if rival := self.before.pop(method, None):
            rival()
        fault = self._cut(method) or self._planned(method)
        call = getattr(self.inner, method)
        if fault is None:
            return call(*arguments, **options)
        if fault.applied:
            answer = call(*arguments, **options)
            if fault.repeated:
                second = call(*arguments, **options)
                return answer if fault.late else _sent_before(second)
        raise GovernorUnavailable("as the test asked", throttled=fault.throttled, retryable=fault.retryable)

    def _planned(self, method: str) -> Fault | None:
        queue = self.faults.get(method)
        return queue.pop(0) if queue else None

    def _cut(self, method: str) -> Fault | None:
        if self.crash is None:
            return None
        writes_left, applied = self.crash
        if writes_left <= 0:
            return REFUSED
        if method in WRITES:
            self.crash = (writes_left - 1, applied)
            if writes_left == 1:
                return Fault(applied=applied, retryable=False)
        return None


def _sent_before(answer: object) -> object:
    """As `DynamoDBStore` answers a request that its client had to send a second time."""
    return replace(answer, perhaps_applied=True) if isinstance(answer, Unwritten) else answer
