"""The janitor's handler: leases are looked after even where MySQL cannot be reached, and that is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest
from pymysql import err

import janitor
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Grant, Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.observation import Observation
from connection_governor.core.operations import Operations
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.system import SYSTEM_CLOCK
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from connection_governor.wiring import Environment


@pytest.fixture(autouse=True)
def orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a budget of three over memory."""
    operations = Operations(MemoryStore(), VirtualClock(), SetEntropy())
    operations.set_budget("orders", 3)
    monkeypatch.setattr(janitor, "operations", lambda _environment: operations)
    monkeypatch.setenv("GOVERNOR_DATABASE", "orders")
    janitor.kept.cache_clear()


class QuietServer:
    """A server without sessions, as the janitor sees it."""

    name = "MySQL"
    error: type[Exception] = err.MySQLError

    def __init__(self, *_: object) -> None:
        """Need nothing."""

    def observe(self) -> Observation:
        """Return no session."""
        return Observation((), names_known=True)

    def close(self) -> None:
        """Close the monitoring user's session."""


def test_a_round_publishes_the_gauges_without_traffic(
    context: LambdaContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them a quiet database looks like a dead one on the dashboard."""
    monkeypatch.setattr(janitor, "watch", QuietServer)
    assert janitor.handler({}, context) == {"in_use": 0, "reclaimed": 0, "killed": 0}
    assert '"Remaining Connections":3' in capsys.readouterr().out


@pytest.mark.parametrize(
    "unreachable",
    [
        err.OperationalError(2003, "Can't connect to MySQL server"),
        InvalidRequest("DB_SECRET_ARN", "cannot be read"),
        InvalidRequest("tls_ca", "cannot be used"),
        GovernorUnavailable("secretsmanager does not answer"),
    ],
)
def test_an_unreachable_mysql_fails_after_the_leases_were_looked_after(
    unreachable: Exception,
    context: LambdaContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The gauges must not go dark with MySQL, nor may its absence go unseen: the alarm counts failed rounds."""

    def opener(_environment: Environment) -> NoReturn:
        raise unreachable

    monkeypatch.setattr("connection_governor.wiring.mysql.opener", opener)
    monkeypatch.setenv("DB_WORKER_USERS", "worker")
    with pytest.raises(type(unreachable)):
        janitor.handler({}, context)
    assert '"Remaining Connections":3' in capsys.readouterr().out


def test_a_missing_variable_keeps_no_lease_from_being_looked_after(
    context: LambdaContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing mistake in the template stops the gauges, and so the alarms that would show it."""
    monkeypatch.delenv("DB_WORKER_USERS", raising=False)
    with pytest.raises(InvalidRequest, match="DB_WORKER_USERS"):
        janitor.handler({}, context)
    assert '"Remaining Connections":3' in capsys.readouterr().out


def test_the_session_to_mysql_is_kept_while_leases_are_in_use_and_no_longer(
    context: LambdaContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept, it lets an operator in when all connections are used up; for ever, it would keep a database awake."""
    closed: list[bool] = []
    monkeypatch.setattr(QuietServer, "close", lambda _self: closed.append(True))
    monkeypatch.setattr(janitor, "watch", QuietServer)
    store, clock = MemoryStore(), VirtualClock(SYSTEM_CLOCK.now_ms())
    operations = Operations(store, clock, SetEntropy())
    operations.set_budget("orders", 3)
    monkeypatch.setattr(janitor, "operations", lambda _environment: operations)
    lease = Engine(store, clock, SetEntropy()).acquire(Wanted("orders", "lease001", "shop/1", 1, clock.now + 60_000))
    assert isinstance(lease, Grant)
    janitor.handler({}, context)
    assert closed == []
    Engine(store, clock, SetEntropy()).release(lease.lease)
    janitor.handler({}, context)
    assert closed == [True]


def test_an_operators_action_is_no_round(
    context: LambdaContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A round at each question would publish gauges twice a minute, and reclaim while somebody only looks."""
    monkeypatch.setattr(janitor, "watch", QuietServer)
    answer = janitor.handler({"action": "sessions", "by": "anna@bastion"}, context)
    assert answer == {"database": "orders", "names_known": True, "sessions": []}
    shown = capsys.readouterr().out
    assert "Remaining Connections" not in shown
