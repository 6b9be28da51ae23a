"""What a governor needs of the world around it: a kind of database, by its protocol, and clock, randomness and log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from connection_governor.client.lease_file import NO_LEASE_FILE
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from connection_governor.client.lease_file import LeaseNotes
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.lease import Lease
    from connection_governor.core.operations import Operations
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer
    from connection_governor.metrics import Reporter


class Watched(Protocol):
    """The part of a session that both the blocking and the asynchronous one have.

    Attributes:
        driver_error: the base of the driver's errors: after one, the session is not kept.
        lease: the lease that it was opened under; None without one.
        on_login: called with the session before each login is sent. From here on the server may have one.
        on_work: called with True before the session gets work, and with False once it has none left.
    """

    driver_error: type[Exception]
    lease: Lease | None
    on_login: Callable[[Any], object] | None
    on_work: Callable[..., None] | None

    @property
    def may_linger(self) -> bool:
        """After the end, also that of a failed opening: whether the lease must be left to expire."""


class Session(Watched, Protocol):
    """A driver's connection to one kind of database, bound to a fence and a lease.

    It exists before it is opened, so that it can be ended wherever its opening was interrupted.

    Attributes:
        fence: the session's limits.
        usable_until_ms: statements are refused (`LeaseLost`) after this moment; moved when the lease is renewed.
        acquired_ms: when the lease was granted, milliseconds since 1970 UTC.
        asks_for_server: set before the opening, so that it learns which server it is on.
        server: which one, where that was asked for and answered.
        on_close: called once, after `close` has ended the session.
    """

    fence: Fence
    usable_until_ms: int | None
    acquired_ms: int
    asks_for_server: bool
    server: DatabaseServer | None
    on_close: Callable[[], None] | None

    @property
    def open(self) -> bool:
        """Whether it is open."""

    def connect(self) -> None:
        """Open it, once. Raises the driver's error, or `LeaseLost`."""

    def is_alive(self) -> bool:
        """Return whether the server answers; if not, the session is closed. Raises `LeaseLost` if it is too late."""

    def reset(self) -> None:
        """Roll back, and forget all session state but the fence. Raises the driver's error: the session is closed."""

    def end_sessions(self, names: Collection[str]) -> int:
        """End the user's own other sessions with these names, and count them. It needs no right.

        Raises the driver's error, or `LeaseLost`.
        """

    def close(self) -> None:
        """End it in order, and wait shortly for the server to have ended it. Can be repeated."""


class AsyncSession(Watched, Protocol):
    """As `Session`, for coroutines."""

    async def open(self) -> None:
        """Open it, once. Raises the driver's error, or `LeaseLost`."""

    async def end_sessions(self, names: Collection[str]) -> int:
        """End sessions as `Session.end_sessions` does."""

    async def take_leave(self) -> None:
        """End it in order, and wait shortly for the server to have ended it."""

    def drop(self) -> None:
        """Drop the connection at once, without a wait. Can be repeated."""


class Opener(Protocol):
    """Makes sessions of one database, of one kind."""

    def session_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a caller's options as `new_session` takes them. Raises `InvalidRequest` for any other."""

    def new_session(
        self,
        fence: Fence,
        session_name: str,
        usable_until_ms: int | None,
        deadline: Deadline | None = None,
        **options: Any,  # noqa: ANN401 - see `session_options`
    ) -> Session:
        """Return a session that is not open yet; see `Lease.session_name`."""

    def new_async_session(
        self, fence: Fence, session_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
    ) -> AsyncSession:
        """Return a session for coroutines that is not open yet."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a governor needs of the world around it.

    Attributes:
        clock: the time that is written into leases.
        entropy: where lease ids and jitter come from.
        reporter: writes refusals and ungoverned connections to the log, as metrics.
        make_opener: makes the opener of sessions at its first use; None: `lease` only.
        operations: makes the operator's commands at their first use; None: no `set_budget`.
        lease_file: tells the extension which leases are held, if there is one.
        stops_at_deadline: whether Lambda stops an invocation's code at its deadline; not so on Managed Instances.
    """

    clock: Clock
    entropy: Entropy
    reporter: Reporter
    make_opener: Callable[[], Opener] | None = None
    operations: Callable[[], Operations] | None = None
    lease_file: LeaseNotes = NO_LEASE_FILE
    stops_at_deadline: bool = True
