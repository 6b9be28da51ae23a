"""The janitor's round: finish plans, reclaim leases, compare with the server, end overdue sessions, publish gauges.

No promise about leases needs it: an acquire that finds its shard full takes over expired leases by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.values import dataclass
from connection_governor.errors import GovernorError
from connection_governor.metrics import gauges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.lease import Lease
    from connection_governor.core.observation import Observation, Session
    from connection_governor.core.operations import Operations
    from connection_governor.core.status import Status
    from connection_governor.metrics import Reporter
    from connection_governor.server.ports import Watch


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round.

    Attributes:
        status: the leases, after it.
        reclaimed: the leases that had expired.
        killed: the sessions whose lease was gone.
        observation: the server's answer; None if it was not asked, or did not answer.
        blind: why the server could not be watched to the end of the round.
    """

    status: Status
    reclaimed: Sequence[Lease]
    killed: Sequence[Session]
    observation: Observation | None
    blind: Exception | None


class Attention:
    """Decides when to look at the server, so that a database that pauses without connections can pause.

    A look is due while a lease is stored, after a lease was granted since the last look, and after a look that saw
    sessions or failed. The first round of an environment always looks.
    """

    def __init__(self) -> None:
        self._quiet_since: list[int] | None = None

    def due(self, status: Status) -> bool:
        """Return whether a session of a lease may be there."""
        return bool(status.leases()) or self._quiet_since != _fences(status)

    def looked(self, status: Status, observation: Observation | None) -> None:
        """Note what a look saw; `status` was read before it."""
        quiet = observation is not None and not observation.sessions
        self._quiet_since = _fences(status) if quiet else None


def _fences(status: Status) -> list[int]:
    return [shard.fence for shard in status.shards]  # each grant raises its shard's fence


class Janitor:
    """Looks after one database.

    Args:
        operations: the leases.
        watch: the server; None if it cannot or should not be reached: the gauges are published all the same.
        reporter: writes the metrics.
        clock: stamps them.
        attention: decides when to look at the server; kept from round to round. None: look in each round.
    """

    def __init__(
        self,
        operations: Operations,
        watch: Watch | None,
        reporter: Reporter,
        clock: Clock,
        attention: Attention | None = None,
    ) -> None:
        self._attention = attention
        self._operations = operations
        self._watch = watch
        self._reporter = reporter
        self._clock = clock

    def round(self, database: str) -> Round:
        """Do one round: sessions first, leases after, so that a session opened in between never looks overdue.

        The leases are looked after whatever the server answers.

        Raises:
            UnknownDatabase: no budget was ever set.
            GovernorUnavailable: the store could not be reached.
        """
        observation, blind = self._observed(database)
        reclaimed = self._operations.reclaim(database)
        status = self._operations.status(database)
        if not status.settled:
            status = self._operations.settle(status.settings)
        killed, refused = self._end_overdue(observation, status)
        outcome = Round(status, reclaimed, killed, observation, blind or refused)
        self._report(outcome)
        return outcome

    def _observed(self, database: str) -> tuple[Observation | None, Exception | None]:
        if self._attention is None:
            return self._look()
        before = self._operations.status(database)
        if not self._attention.due(before):
            return None, None
        observation, blind = self._look()
        self._attention.looked(before, observation)
        return observation, blind

    def _look(self) -> tuple[Observation | None, Exception | None]:
        if self._watch is None:
            return None, None
        try:
            return self._watch.observe(), None
        except (self._watch.error, GovernorError) as unreachable:
            return None, unreachable

    def _end_overdue(self, observation: Observation | None, status: Status) -> tuple[list[Session], Exception | None]:
        """Kill only this database's sessions without a stored lease: it was released, taken over or just reclaimed."""
        killed: list[Session] = []
        if self._watch is None or observation is None or not observation.names_known:
            return killed, None
        held = {lease.session_name for lease in status.leases()}
        try:
            for session in observation.sessions:
                own = session.database == status.settings.database
                if own and session.program_name not in held and self._watch.kill(session):
                    killed.append(session)
        except (self._watch.error, GovernorError) as unreachable:
            return killed, unreachable
        return killed, None

    def _report(self, outcome: Round) -> None:
        status = outcome.status
        values = gauges(allowed=status.settings.allowed, in_use=status.in_use, exact=True)
        values["LeasesExpired"] = len(outcome.reclaimed)
        if outcome.observation is not None:
            counted = {None, status.settings.database}  # one server may hold several governed databases
            seen = [session for session in outcome.observation.sessions if session.database in counted]
            observed = len(seen) - len(outcome.killed)
            values["ObservedConnections"] = observed
            values["Drift"] = observed - status.in_use
            values["SessionNamesUnknown"] = 0 if outcome.observation.names_known else 1
            values["StatementLimitMissing"] = 1 if outcome.observation.statement_limit_missing else 0
            if outcome.observation.ungoverned is not None:
                values["UngovernedConnections"] = outcome.observation.ungoverned
        details: dict[str, object] = {
            "reclaimed": [lease.lease_id for lease in outcome.reclaimed],
            "killed": [session.connection_id for session in outcome.killed],
            "settled": status.settled,
        }
        if outcome.observation is not None and outcome.observation.statement_limit_missing:
            details["statement_limit"] = outcome.observation.statement_limit_missing
        self._reporter.emit(status.settings.database, values, now_ms=self._clock.now_ms(), **details)
