"""The worker: a refusal is seen, a crash has said what it held."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import errors
from pymysql import err

import job
import worker
from connection_governor import GovernorUnavailable, Lease, NoConnectionsLeft
from job import Job
from tests.support.invocation import FakeContext
from tests.support.virtual import NOW_MS, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE = Lease("k3Zq81Bd", "orders", "shop/1", 1, 41, 1_800_000_025_000, 0)
REFUSED = NoConnectionsLeft("orders", retry_after_ms=40, allowed=10, in_use=10)
TOO_MANY = err.OperationalError(1226, "User 'governed_worker' has exceeded the 'max_user_connections' resource")


class FakeConnection:
    """A session that answers three rows."""

    lease = LEASE
    acquired_ms = NOW_MS + 30

    def __init__(self) -> None:
        self.statements: list[str] = []

    @contextlib.contextmanager
    def cursor(self) -> Iterator[FakeConnection]:
        """Return itself."""
        yield self

    def execute(self, query: str) -> None:
        """Note the statement."""
        self.statements.append(query)

    def fetchall(self) -> list[tuple[int]]:
        """Return the rows."""
        return [(1,), (2,), (3,)]


class FakeGovernor:
    """Grants, or raises what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.options: dict[str, object] = {}

    @contextlib.contextmanager
    def connection(self, **options: object) -> Iterator[FakeConnection]:
        """Yield one connection."""
        self.options = options
        if self.error:
            raise self.error
        yield FakeConnection()


class VirtualTime:
    """As much of `time` as the job uses; sleeping takes no real time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.sleep = self.clock.sleep

    def time_ns(self) -> int:
        """Return the virtual time."""
        return self.clock.now * 1_000_000

    def monotonic(self) -> float:
        """Return the virtual time, in seconds."""
        return self.clock.now / 1_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """Return the job's time."""
    virtual = VirtualTime()
    monkeypatch.setattr(job, "time", virtual)
    return virtual.clock


def _use(monkeypatch: pytest.MonkeyPatch, governor: FakeGovernor) -> None:
    monkeypatch.setattr(worker, "governor", lambda: governor)


def _handle(event: dict[str, Any]) -> dict[str, Any]:
    return worker.handler(event, FakeContext())  # type: ignore[arg-type]  # as much of a context as is used


def test_a_worker_reports_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's proof that nothing was over-granted rests on these intervals, not on the counter."""
    _use(monkeypatch, FakeGovernor())
    answer = _handle({"hold_ms": 700})
    assert (answer["outcome"], answer["statusCode"], answer["rows"]) == ("granted", 200, 3)
    assert (answer["lease_id"], answer["shard"], answer["fence"]) == ("k3Zq81Bd", 0, 41)
    assert (answer["held_from_ms"], answer["expires_at_ms"]) == (FakeConnection.acquired_ms, LEASE.expires_at_ms)
    assert (answer["acquire_ms"], answer["held_to_ms"]) == (30, NOW_MS + 700)
    assert answer["pid"] == os.getpid()


def test_a_worker_waits_as_long_as_it_is_asked_to_and_no_longer_than_its_invocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Milliseconds taken for seconds, and a worker that Lambda stops in the middle of its wait."""
    governor = FakeGovernor()
    _use(monkeypatch, governor)
    _handle({"hold_ms": 0, "timeout_ms": 2_500})
    assert governor.options["timeout"] == 2.5
    assert isinstance(governor.options["context"], FakeContext)


@pytest.mark.parametrize("error", [REFUSED, GovernorUnavailable("down"), TOO_MANY])
def test_a_refusal_is_raised_unless_the_caller_asks_for_an_answer(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published sample's refused worker reported success: Lambda did not retry, and the work was lost."""
    _use(monkeypatch, FakeGovernor(error))
    with pytest.raises(type(error)):
        _handle({})


def test_a_refusal_can_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness counts refusals apart from errors by this answer."""
    _use(monkeypatch, FakeGovernor(REFUSED))
    answer = _handle({"on_refusal": "return"})
    assert (answer["outcome"], answer["statusCode"], answer["retry_after_ms"]) == ("refused", 429, 40)


def test_an_error_of_mysql_is_answered_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo must see each connection that MySQL itself refused (1040, 1226), or it proves nothing."""
    refused = err.OperationalError(*TOO_MANY.args)
    refused.sqlstate = "42000"  # as PyMySQL 1.2 sets it: many errors share one
    for error in (TOO_MANY, refused):
        _use(monkeypatch, FakeGovernor(error))
        answer = _handle({"on_refusal": "return"})
        assert (answer["outcome"], answer["statusCode"], answer["mysql_error"]) == ("error", 503, 1226)


def test_an_error_of_postgresql_is_answered_with_its_sqlstate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, where the role's CONNECTION LIMIT refuses."""
    refused = errors.TooManyConnections("too many connections for role")
    _use(monkeypatch, FakeGovernor(refused))
    answer = _handle({"on_refusal": "return"})
    assert (answer["outcome"], answer["mysql_error"]) == ("error", "53300")


def test_a_long_hold_keeps_the_session_alive(clock: VirtualClock) -> None:
    """MySQL ends a governed session that idles for five seconds: a longer hold would fail at its end."""
    connection = FakeConnection()
    Job.of({"hold_ms": 7_000}).do(connection, lease=None, asked_ms=0, acquired_ms=0)
    assert (max(clock.naps), sum(clock.naps), connection.statements.count("SELECT 1")) == (2.0, 7.0, 4)


def test_a_victim_says_what_it_holds_before_it_dies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed worker answers nothing: without these lines its lease could not be accounted for."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("job.os.kill", lambda pid, sign: killed.append((pid, sign)))
    _use(monkeypatch, FakeGovernor())
    _handle({"hold_ms": 0, "crash": True})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["worker"], line["lease_id"]) for line in lines] == [
        ("holding", "k3Zq81Bd"),
        ("crashing", "k3Zq81Bd"),
    ]
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_the_hold_is_drawn_where_the_event_names_none() -> None:
    """The published sample's worker holds for 1 to 3 seconds."""
    assert all(1_000 <= Job.of({}).hold_ms <= 3_000 for _ in range(50))
    assert 5 <= Job.of({"hold_ms": [5, 6]}).hold_ms <= 6
