"""Sessions without a server, for tests in virtual time: they end after `wait_timeout`, and know their guard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.lease import Lease
    from connection_governor.database.fence import Fence
    from connection_governor.database.server import DatabaseServer


class CalmSession:
    """As much of a `FencedConnection` as the governor uses.

    Attributes:
        log: what was done to it, in order.
        broken: as after a network failure.
    """

    def __init__(self, fence: Fence, name: str, usable_until_ms: int | None, clock: Clock) -> None:
        self.fence = fence
        self.name = name
        self.usable_until_ms = usable_until_ms
        self.lease: Lease | None = None
        self.acquired_ms = 0
        self.on_close: Callable[[], None] | None = None
        self.open = True
        self.on_login: Callable[[object], object] | None = None
        self.may_linger = False
        self.asks_for_server = False
        self.server: DatabaseServer | None = None
        self.broken = False
        self.takes_s = 0.0
        self.refuses: Exception | None = None
        self.local_port = 0
        self.port = 3306
        self.log: list[str] = []
        self._clock = clock
        self._last_ms = clock.now_ms()

    @property
    def ended_by_server(self) -> bool:
        """Whether MySQL has closed it: idle for longer than its `wait_timeout`."""
        return self._clock.now_ms() - self._last_ms > self.fence.idle_ms

    def connect(self) -> None:
        """As `FencedConnection.connect`."""
        if self.takes_s:
            self._clock.sleep(self.takes_s)
        if self.refuses is not None:
            raise self.refuses
        self._last_ms = self._clock.now_ms()

    def query(self) -> None:
        """Run one statement; raise `LeaseLost` past the guard."""
        if self.usable_until_ms is not None and self._clock.now_ms() > self.usable_until_ms:
            raise LeaseLost("too late")
        assert self.open
        assert not self.ended_by_server
        self._command("query")

    def is_alive(self) -> bool:
        """Answer as `FencedConnection.is_alive`."""
        if self.usable_until_ms is not None and self._clock.now_ms() > self.usable_until_ms:
            raise LeaseLost("too late")
        if self.broken or self.ended_by_server or not self.open:
            self.open = False
            return False
        self._command("ping")
        return True

    def reset(self) -> None:
        """Reset as `FencedConnection.reset`."""
        self._command("reset")

    def close(self) -> None:
        """Close as `FencedConnection.close`."""
        self.open = False
        self.log.append("close")
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close()

    def _command(self, name: str) -> None:
        self._last_ms = self._clock.now_ms()
        self.log.append(name)


class CalmOpener:
    """Opens such sessions.

    Attributes:
        opened: all of them, in order.
        takes_s: how long that lasts.
    """

    def __init__(self, clock: Clock, takes_s: float = 0.0) -> None:
        self.opened: list[CalmSession] = []
        self.takes_s = takes_s
        self._clock = clock

    def new_session(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, _deadline: Deadline | None = None
    ) -> CalmSession:
        """See `Opener.new_session`."""
        session = CalmSession(fence, program_name, usable_until_ms, self._clock)
        session.takes_s = self.takes_s
        self.opened.append(session)
        return session
