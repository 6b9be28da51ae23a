"""The fence at the database: the limits under which the server itself ends the session of a holder that vanished.

W is how long a session may be idle. E is how long one statement may last, with its waits for locks and for the network.
A session is gone E + W after its last statement began. A lease must reach so far beyond the last moment of its use.

MySQL itself stops only a SELECT at its limit. Any other statement (UPDATE, INSERT … SELECT, CALL, SET, DO and so on) is
stopped by an event that the seed makes (`server.mysql.statement_limit`), within a second after the limit. E counts that
second on every server: a lease's end is settled before the client knows which server it will meet.

Not covered (the janitor kills such a session, by its lease): on any server a COMMIT, and a ROLLBACK of a large
transaction; on a MySQL without that event, every statement other than SELECT, such as CALL, SET and DO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.checks import whole_number
from connection_governor.core.values import dataclass
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_SECONDS = 3_600
_SHORTEST_STATEMENT_SECONDS = 0.001  # the servers take 0 for "no limit"
_LOCKS_IN_TURN = 2  # a statement waits for the table's definition first, then for a row
_EVENT_SECONDS = 1.0  # MySQL's event, which stops what MySQL does not, runs each second
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Fence:
    """Limits of a governed session, in seconds.

    Attributes:
        idle_seconds: W, between two commands (`wait_timeout`), whole seconds.
        statement_seconds: for one statement (`max_statement_time` on MariaDB, `max_execution_time` on MySQL).
        write_seconds: for one wait on the network within a statement, in either direction
            (`net_write_timeout`: an unread result; `net_read_timeout`: a statement sent by half).
        lock_seconds: for one wait for a lock (`lock_wait_timeout`, `innodb_lock_wait_timeout`), whole seconds. Default:
            such that one wait of each kind is within `statement_seconds`.
    """

    idle_seconds: int = 5
    statement_seconds: float = 8.0
    write_seconds: int = 2
    lock_seconds: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that a server would read as "no limit", or that no lease could outlast."""
        whole_number("idle_seconds", self.idle_seconds, least=1, most=_MOST_SECONDS)
        _statement_limit(self.statement_seconds)
        whole_number("write_seconds", self.write_seconds, least=1, most=_MOST_SECONDS)
        if self.lock_seconds is not None:
            whole_number("lock_seconds", self.lock_seconds, least=1, most=_MOST_SECONDS)

    @property
    def lock_wait_seconds(self) -> int:
        """The limit of one wait for a lock: as given, or half a statement's time."""
        if self.lock_seconds is not None:
            return self.lock_seconds
        return max(1, int(self.statement_seconds / _LOCKS_IN_TURN))

    @property
    def idle_ms(self) -> int:
        """W: a session without a command is closed by the server after this many milliseconds."""
        return self.idle_seconds * 1_000

    @property
    def statement_bound_ms(self) -> int:
        """E: one statement ends within this many milliseconds, its waits included."""
        longest = max(self.statement_seconds + _EVENT_SECONDS, self.lock_wait_seconds * _LOCKS_IN_TURN)
        return round(longest * 1_000) + self.write_seconds * 1_000

    @property
    def margin_ms(self) -> int:
        """E + W: how far a lease must reach beyond the holder's deadline."""
        return self.statement_bound_ms + self.idle_ms

    @property
    def guard_ms(self) -> int:
        """2W + E: how long before the lease's expiry the last statement may start, if the holder may be frozen."""
        return self.margin_ms + self.idle_ms

    def required_margin_ms(self, *, may_freeze: bool) -> int:
        """Return how far a lease must reach beyond the last moment at which its holder starts a statement.

        Args:
            may_freeze: whether the holder may pause between its last clock read and its statement. Lambda stops
                the holder of an invocation at the deadline, so E + W suffice there. Other code needs 2W + E: code that
                may be frozen, and an invocation on Managed Instances, which no deadline stops.
        """
        return self.guard_ms if may_freeze else self.margin_ms

    @property
    def read_seconds(self) -> float:
        """How long a client waits for an answer: longer than E, so that the server gives up first and says why."""
        return self.statement_bound_ms / 1_000 + _ANSWER_SECONDS

    def session_settings(self, *, is_mariadb: bool) -> Mapping[str, int | float]:
        """Return the session variables to set, by name: for any driver that is not opened by this package."""
        settings: dict[str, int | float] = {
            "wait_timeout": self.idle_seconds,
            "net_write_timeout": self.write_seconds,
            "net_read_timeout": self.write_seconds,
            "lock_wait_timeout": self.lock_wait_seconds,
            "innodb_lock_wait_timeout": self.lock_wait_seconds,
        }
        if is_mariadb:
            return settings | {"max_statement_time": self.statement_seconds}
        return settings | {"max_execution_time": round(self.statement_seconds * 1_000)}


def _statement_limit(seconds: object) -> None:
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise InvalidRequest("statement_seconds", "must be a number")
    if not _SHORTEST_STATEMENT_SECONDS <= seconds <= _MOST_SECONDS:  # NaN fails this as well
        raise InvalidRequest(
            "statement_seconds",
            f"must be from {_SHORTEST_STATEMENT_SECONDS} to {_MOST_SECONDS}, and is never 'no limit'",
        )
