"""The janitor's handler: leases are looked after even where MySQL cannot be reached, and that is seen."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from pymysql import err

import janitor
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.mysql.observe import Observation
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_lambda_powertools.utilities.typing import LambdaContext

    from connection_governor.wiring import Environment


@pytest.fixture(autouse=True)
def orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of three over memory."""
    operations = Operations(MemoryStore(), VirtualClock(), SetEntropy())
    operations.set_budget("orders", 3)
    monkeypatch.setattr(janitor, "operations", lambda _here: operations)
    monkeypatch.setenv("GOVERNOR_DATABASE", "orders")


class QuietServer:
    """A server with nobody on it."""

    def observe(self) -> Observation:
        """No session."""
        return Observation((), names_known=True)


def test_a_round_publishes_the_gauges_without_traffic(
    context: LambdaContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them a quiet database looks like a dead one on the dashboard."""

    @contextlib.contextmanager
    def watching(_here: Environment) -> Iterator[QuietServer]:
        yield QuietServer()

    monkeypatch.setattr(janitor, "watching", watching)
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

    def watching(_here: Environment) -> contextlib.AbstractContextManager[QuietServer]:
        raise unreachable

    monkeypatch.setattr(janitor, "watching", watching)
    with pytest.raises(type(unreachable)):
        janitor.handler({}, context)
    assert '"Remaining Connections":3' in capsys.readouterr().out
