"""The janitor's round over a store in memory and a list of sessions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pymysql import err

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Lease, Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.observation import Observation, Session
from connection_governor.core.operations import Operations
from connection_governor.metrics import Reporter
from connection_governor.server.janitor import Attention, Janitor, Round
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable


DENIED = err.OperationalError(1142, "SELECT command denied")


class Sessions:
    """What MySQL lists; KILL removes."""

    name = "MySQL"
    error: type[Exception] = err.MySQLError

    def __init__(self, *names: str | None, names_known: bool = True) -> None:
        self.names_known = names_known
        self.listed = [Session(n, "worker", "host", "Sleep", 1, name) for n, name in enumerate(names)]
        self.killed: list[str | None] = []
        self.refuses_to = ""  # observe, or kill a second session
        self.statement_limit_missing: str | None = None

    def observe(self) -> Observation:
        """Return all of them."""
        if self.refuses_to == "observe":
            raise DENIED
        return Observation(tuple(self.listed), self.names_known, self.statement_limit_missing)

    def kill(self, session: Session) -> bool:
        """Kill as the server does."""
        if self.refuses_to == "kill" and self.killed:
            raise DENIED
        self.killed.append(session.program_name)
        return True


@pytest.fixture
def store() -> MemoryStore:
    """Return a database `orders` with a budget of 3."""
    store = MemoryStore()
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 3)
    return store


@pytest.fixture
def lend(store: MemoryStore) -> Callable[[str, int], Lease]:
    """Grant one connection until so many milliseconds from now."""

    def lend(lease_id: str, ends_in_ms: int) -> Lease:
        wanted = Wanted("orders", lease_id, "checkout/1", 1, SYSTEM_CLOCK.now_ms() + ends_in_ms)
        outcome = Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).acquire(wanted)
        assert isinstance(outcome, Grant)
        return outcome.lease

    return lend


def one_round(store: MemoryStore, sessions: Sessions | None) -> tuple[dict[str, object], Round]:
    """Return one round: the line of metrics that it wrote, and what it did."""
    lines: list[str] = []
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    done = Janitor(operations, sessions, Reporter(lines.append), SYSTEM_CLOCK).round("orders")
    (line,) = lines
    parsed: dict[str, object] = json.loads(line)
    return parsed, done


def round_of(store: MemoryStore, sessions: Sessions | None) -> dict[str, object]:
    """Return one round's line of metrics."""
    return one_round(store, sessions)[0]


def test_expired_leases_are_reclaimed_and_counted(store: MemoryStore, lend: Callable[[str, int], Lease]) -> None:
    """Without traffic no acquire takes an expired lease over, and the dashboard would show it as in use."""
    lend("expired1", -10_000)
    lend("holding1", 60_000)
    line = round_of(store, None)
    assert (line["LeasesExpired"], line["ConnectionsInUse"], line["Remaining Connections"]) == (1, 1, 2)


def test_only_sessions_whose_lease_is_stored_no_more_are_ended(
    store: MemoryStore, lend: Callable[[str, int], Lease]
) -> None:
    """A kill too many ends a worker's live connection; one too few leaves MySQL above its budget."""
    expired, held = lend("expired1", -10_000), lend("holding1", 60_000)
    sessions = Sessions(expired.session_name, held.session_name, "mysqldump", None)
    line = round_of(store, sessions)
    assert sessions.killed == [expired.session_name]
    assert (line["ObservedConnections"], line["Drift"], line["UngovernedConnections"]) == (3, 2, 2)


def test_a_session_whose_lease_has_just_ended_and_is_stored_is_left_alone(
    store: MemoryStore, lend: Callable[[str, int], Lease]
) -> None:
    """Its holder's clock may be behind by the allowance: it would lose a connection in the middle of its work."""
    slow = lend("slow0001", -200)
    sessions = Sessions(slow.session_name)
    line = round_of(store, sessions)
    assert (sessions.killed, line["ConnectionsInUse"]) == ([], 1)


@pytest.mark.parametrize("reason", [None, "event_scheduler is OFF"])
def test_a_server_that_does_not_limit_every_statement_is_reported_with_the_reason(
    reason: str | None, store: MemoryStore
) -> None:
    """A statement may then hold its connection longer than its lease, and nothing else shows it beforehand."""
    sessions = Sessions()
    sessions.statement_limit_missing = reason
    line = round_of(store, sessions)
    assert (line["StatementLimitMissing"], line.get("statement_limit")) == (int(reason is not None), reason)
    assert "StatementLimitMissing" not in round_of(store, None)


def test_another_databases_sessions_on_the_same_server_are_left_alone(store: MemoryStore) -> None:
    """Two governed databases may share a server and a user: each janitor knows only its own leases."""
    sessions = Sessions("governor:k3Zq81Bd:billing#0")
    line = round_of(store, sessions)
    assert sessions.killed == []
    assert line["ObservedConnections"] == 0


def test_no_session_is_killed_if_the_server_keeps_no_names(store: MemoryStore) -> None:
    """With performance_schema off no session can be told from another."""
    sessions = Sessions("governor:k3Zq81Bd:orders#0", names_known=False)
    line = round_of(store, sessions)
    assert sessions.killed == []
    assert "UngovernedConnections" not in line


def test_gauges_are_published_with_no_traffic_and_without_mysql(store: MemoryStore) -> None:
    """An alarm without data would stay silent through the outage that it is for."""
    line = round_of(store, None)
    assert (line["Remaining Connections"], line["AllowedConnections"], line["Utilization"]) == (3, 3, 0.0)


def test_the_leases_are_looked_after_whatever_mysql_says(store: MemoryStore, lend: Callable[[str, int], Lease]) -> None:
    """A right that MySQL takes away would stop the reclaiming, and leave the alarms without data."""
    lend("expired1", -10_000)
    sessions = Sessions("governor:k3Zq81Bd:orders#0")
    sessions.refuses_to = "observe"
    line, done = one_round(store, sessions)
    assert (line["LeasesExpired"], line["Remaining Connections"]) == (1, 3)
    assert "ObservedConnections" not in line
    assert done.blind is DENIED


def test_a_refused_kill_is_reported_and_hides_nothing(store: MemoryStore) -> None:
    """What was ended before it was refused is counted, and the gauges are published."""
    sessions = Sessions("governor:k3Zq81Bd:orders#0", "governor:k3Zq81Be:orders#0")
    sessions.refuses_to = "kill"
    line, done = one_round(store, sessions)
    assert (line["ObservedConnections"], line["killed"]) == (1, [0])
    assert done.blind is DENIED


class CountingSessions(Sessions):
    """Sessions of which the looks are counted."""

    looks = 0

    def observe(self) -> Observation:
        """Count, and list."""
        self.looks += 1
        return super().observe()


def _minutes(minutes: int, clock: VirtualClock, janitor: Janitor) -> None:
    for _ in range(minutes):
        clock.advance(60_000)
        janitor.round("orders")


def test_an_unused_database_is_left_to_pause() -> None:
    """Aurora pauses only without connections: one a minute costs its price around the clock."""
    clock, server = VirtualClock(), CountingSessions()
    store = MemoryStore()
    operations, engine = Operations(store, clock, SetEntropy()), Engine(store, clock, SetEntropy())
    operations.set_budget("orders", 3)
    janitor = Janitor(operations, server, Reporter(lambda _line: None), clock, Attention())
    _minutes(1, clock, janitor)
    assert server.looks == 1  # this environment knows nothing yet
    _minutes(10, clock, janitor)
    assert server.looks == 1

    lease = engine.acquire(Wanted("orders", "lease001", "shop/1", 1, clock.now_ms() + 90_000))
    assert isinstance(lease, Grant)
    server.listed = [Session(1, "worker", "host", "Query", 1, lease.lease.session_name)]
    _minutes(1, clock, janitor)
    assert server.looks == 2  # a lease is held
    _minutes(1, clock, janitor)
    assert server.killed == [lease.lease.session_name]  # it expired with its session still there
    server.listed = []
    looks = server.looks
    _minutes(10, clock, janitor)
    assert server.looks <= looks + 2
    looks = server.looks
    _minutes(10, clock, janitor)
    assert server.looks == looks


def test_a_lease_that_came_and_went_between_two_rounds_is_looked_after() -> None:
    """Its holder may have died with the session open, and the lease may have been taken back by another."""
    clock, server = VirtualClock(), CountingSessions()
    store = MemoryStore()
    operations, engine = Operations(store, clock, SetEntropy()), Engine(store, clock, SetEntropy())
    operations.set_budget("orders", 3)
    janitor = Janitor(operations, server, Reporter(lambda _line: None), clock, Attention())
    _minutes(3, clock, janitor)
    looks = server.looks
    lease = engine.acquire(Wanted("orders", "lease001", "shop/1", 1, clock.now_ms() + 5_000))
    assert isinstance(lease, Grant)
    engine.release(lease.lease)
    _minutes(1, clock, janitor)
    assert server.looks == looks + 1


def test_a_look_that_failed_or_saw_a_session_is_repeated() -> None:
    """The session that should be ended is still there, and the server is awake anyway."""
    clock, server = VirtualClock(), CountingSessions("governor:lease009:orders#0")
    operations = Operations(MemoryStore(), clock, SetEntropy())
    operations.set_budget("orders", 3)
    janitor = Janitor(operations, server, Reporter(lambda _line: None), clock, Attention())
    server.refuses_to = "observe"
    _minutes(2, clock, janitor)
    server.refuses_to = ""
    _minutes(2, clock, janitor)
    assert server.looks == 4


def test_a_server_without_names_of_sessions_is_shown(store: MemoryStore) -> None:
    """Nothing is killed there and nothing counted as ungoverned: silence would look like order."""
    lines: list[str] = []
    for known in (True, False):
        operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
        Janitor(operations, Sessions(names_known=known), Reporter(lines.append), SYSTEM_CLOCK).round("orders")
    assert [json.loads(line)["SessionNamesUnknown"] for line in lines] == [0, 1]
