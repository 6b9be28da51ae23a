"""Seed a database: the schema, the worker's and the janitor's users in it, and the budget in the table.

The order of the steps is the same for each kind of database; a kind's own SQL stands in its folder.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from connection_governor.errors import UnknownDatabase
from connection_governor.server.ports import SeedError

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.operations import Operations
    from connection_governor.server.ports import Administration, Administrator
    from connection_governor.server.seed_properties import SeedProperties

DRAIN_SECONDS: Final = 60  # of the function's 240
RESERVED_CONNECTIONS: Final = 3  # of those that the server takes: the janitor's, a deployment's, an operator's
_CONNECT_TRIES: Final = 7
_CONNECT_PAUSE_SECONDS: Final = 5


class Seeder:
    """Creates, changes and removes a database's schema, users and budget; each method may be repeated.

    Args:
        administration: signs in to the server.
        operations: where the budget is set.
        clock: times the wait for connections to come back.
    """

    def __init__(self, administration: Administration, operations: Operations, clock: Clock) -> None:
        self._administration = administration
        self._operations = operations
        self._clock = clock

    def make(self, wanted: SeedProperties, *, replaces: SeedProperties | None = None) -> tuple[str, ...]:
        """Create or change the schema, the users and the budget.

        Returns:
            What the worker or the janitor cannot do on this server. That loses no slot and grants none twice, but for
            example a statement that outlives its lease is only counted.

        Raises:
            SeedError: the server cannot be reached, cannot hold the budget, or refuses a password that was just set.

        A raised budget raises the server's own limit first. A lowered budget waits for today's holders to release
        before the server's limit follows, so that the server refuses no holder of a lease.
        """
        with closing(self._administrator(wanted)) as administrator:
            self._check_room(administrator, wanted.allowed)
            if wanted.with_example:
                administrator.make_sample()
            before = self._allowed_now(wanted.database)
            notes = [*administrator.make_worker(limit=max(before, wanted.allowed)), *administrator.make_monitor()]
            self._operations.set_budget(
                wanted.database,
                wanted.allowed,
                lease_ms=wanted.lease_ms,
                skew_ms=wanted.skew_ms,
                anonymous_lease_ms=wanted.anonymous_lease_ms,
                opens_per_second=wanted.opens_per_second,
                open_burst=wanted.open_burst if wanted.opens_per_second else 0,
            )
            if before > wanted.allowed:
                self._drain(wanted)
                administrator.make_worker(limit=wanted.allowed)
            if replaces:
                administrator.leave(replaces.users)
        for secret in (wanted.worker_secret, wanted.monitor_secret):
            self._administration.check_sign_in(wanted, secret)
        return tuple(notes)

    def remove(self, wanted: SeedProperties) -> None:
        """Drop the users, and the table and schema that the seed created; drop nothing if the data is to be kept."""
        if not wanted.removes:
            return
        with closing(self._administrator(wanted)) as administrator:
            administrator.remove()

    def _administrator(self, wanted: SeedProperties) -> Administrator:
        kind = self._administration
        for tries_left in reversed(range(_CONNECT_TRIES)):
            try:
                return kind.connect(wanted)
            except kind.error as refused:
                if tries_left == 0 or not kind.may_answer_later(refused):
                    raise SeedError(f"cannot connect to {kind.name} as the administrator: {refused.args}") from None
            self._clock.sleep(_CONNECT_PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _check_room(self, administrator: Administrator, allowed: int) -> None:
        room = administrator.room()
        if allowed > room - RESERVED_CONNECTIONS:
            raise SeedError(
                f"AllowedConnections is {allowed}, but the server takes {room} in all ({self._administration.room}), "
                f"of which {RESERVED_CONNECTIONS} are for the janitor, a deployment and an operator"
            )

    def _allowed_now(self, database: str) -> int:
        try:
            return self._operations.status(database).settings.allowed
        except UnknownDatabase:
            return 0

    def _drain(self, wanted: SeedProperties) -> None:
        for _ in range(DRAIN_SECONDS):
            held = self._operations.status(wanted.database).leases()
            now_ms = self._clock.now_ms()  # an expired lease no longer has a session
            if sum(lease.connections for lease in held if lease.expires_at_ms > now_ms) <= wanted.allowed:
                return
            self._clock.sleep(1)
