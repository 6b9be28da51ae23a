"""What an operator may ask of the janitor function, over a store in memory and a list of sessions."""

from __future__ import annotations

from typing import Any

import pytest
from pymysql import err

from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.observation import Observation, Session
from connection_governor.core.operations import Operations
from connection_governor.server.operator_requests import OperatorRequests
from tests.support.virtual import NOW_MS, SetEntropy, VirtualClock

Answer = dict[str, Any]


class Server:
    """MySQL with one governed session, one without a lease, and one of another database's lease."""

    name = "MySQL"
    error: type[Exception] = err.MySQLError

    def __init__(self) -> None:
        self.names_known = True
        self.failure: err.MySQLError | None = None
        self.sessions = [
            Session(7, "worker", "10.0.0.1", "Query", 3, "governor:lease001:orders#0"),
            Session(8, "worker", "10.0.0.2", "Sleep", 60, None),
            Session(9, "worker", "10.0.0.3", "Sleep", 1, "governor:lease001:billing#0"),
        ]
        self.limits: list[int] = []

    def observe(self) -> Observation:
        """Return the sessions, or fail."""
        if self.failure:
            raise self.failure
        return Observation(tuple(self.sessions), names_known=self.names_known)

    def end(self, session: Session) -> bool:
        """Take it off the list."""
        self.sessions.remove(session)
        return True

    def limit(self, connections: int) -> None:
        """Note the number."""
        self.limits.append(connections)


class Desk:
    """An operator's requests, and what the log says of them."""

    def __init__(self) -> None:
        store, clock = MemoryStore(), VirtualClock()
        operations = Operations(store, clock, SetEntropy())
        operations.set_budget("orders", 3)
        wanted = Wanted("orders", "lease001", "checkout/1", 1, NOW_MS + 60_000)
        assert isinstance(Engine(store, clock, SetEntropy()).acquire(wanted), Grant)
        self.server = Server()
        self.log: list[Answer] = []
        self.requests = OperatorRequests(operations, self.server, "orders", lambda _m, fields: self.log.append(fields))

    def ask(self, **event: object) -> Answer:
        """Return the answer."""
        return self.requests.answer(event)


@pytest.fixture
def desk() -> Desk:
    """Return a database with one lease."""
    return Desk()


def test_sessions_are_listed_with_their_leases(desk: Desk) -> None:
    """At 3 a.m. no laptop reaches the database to list its sessions."""
    seven, eight, nine = desk.ask(action="sessions")["sessions"]
    assert (seven["session"], seven["lease_id"], seven["holder"]) == (7, "lease001", "checkou")
    assert seven["expires_at_ms"] == NOW_MS + 60_000
    assert (eight["lease_id"], eight["holder"]) == (None, None)
    assert (nine["database"], nine["holder"]) == ("billing", None)  # the same id there is another lease


def test_a_session_is_killed_by_number_whether_it_has_a_lease_or_not(desk: Desk) -> None:
    """The session in the way is often one that came without the governor."""
    assert desk.ask(action="kill", session=8, by="anna@bastion") == {"killed": [8]}
    assert desk.ask(action="kill", session=8) == {"killed": []}
    assert [session.connection_id for session in desk.server.sessions] == [7, 9]


def test_a_lease_s_sessions_are_killed_by_its_id(desk: Desk) -> None:
    """The lease's id is what logs and `governor status` show."""
    assert desk.ask(action="kill", lease_id="lease001") == {"killed": [7]}
    assert desk.ask(action="kill", lease_id="lease002") == {"killed": []}


def test_without_names_no_lease_is_guessed(desk: Desk) -> None:
    """A guess would end another worker's statement."""
    desk.server.names_known = False
    assert desk.ask(action="kill", lease_id="lease001")["error"]["field"] == "lease_id"
    assert len(desk.server.sessions) == 3


def test_the_limit_never_goes_below_the_budget(desk: Desk) -> None:
    """Workers would hold leases that MySQL refuses (1226)."""
    assert desk.ask(action="limit", connections=2)["error"]["field"] == "connections"
    assert desk.ask(action="limit", connections=9) == {"limit": 9, "allowed": 3}
    assert desk.server.limits == [9]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"action": "drop"}, "action"),
        ({"action": ["kill"]}, "action"),
        ({"action": "sessions", "database": "billing"}, "database"),
        ({"action": "kill"}, "session"),
        ({"action": "kill", "session": 7, "lease_id": "lease001"}, "session"),
        ({"action": "kill", "session": "7"}, "session"),
        ({"action": "kill", "session": True}, "session"),
        ({"action": "limit"}, "connections"),
        ({"action": "limit", "connections": "9; DROP"}, "connections"),
        ({"action": "sessions", "by": "x" * 129}, "by"),
    ],
)
def test_a_bad_request_changes_nothing_and_names_its_field(event: Answer, field: str, desk: Desk) -> None:
    """A slip at 3 a.m. must not end a session."""
    answer = desk.ask(**event)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("invalid_request", field)
    assert (len(desk.server.sessions), desk.server.limits) == (3, [])


def test_each_action_logs_its_caller_and_its_request(desk: Desk) -> None:
    """After an incident an operator asks who ended that session."""
    desk.ask(action="kill", lease_id="lease001", by="anna@bastion")
    desk.ask(action="drop", by="bob@home")
    kill, drop = desk.log
    killed = {"database": "orders", "action": "kill", "by": "anna@bastion", "lease_id": "lease001", "killed": [7]}
    assert kill == killed
    assert (drop["by"], drop["error"]["code"]) == ("bob@home", "invalid_request")


def test_a_server_that_refuses_is_an_answer(desk: Desk) -> None:
    """A stack trace tells an operator less than MySQL's own number."""
    desk.server.failure = err.OperationalError(1040, "Too many connections")
    answer = desk.ask(action="sessions")
    assert answer["error"] == {"code": "unavailable", "message": "MySQL: (1040, 'Too many connections')"}
