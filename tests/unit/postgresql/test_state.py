"""What decides whether a PostgreSQL session may be used, reset, or may linger."""

from __future__ import annotations

import itertools

import pytest
from psycopg.pq import PipelineStatus, TransactionStatus

from connection_governor.postgresql.state import Phase, SessionState

AT_REST = {TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR}


def opened() -> SessionState:
    """Return a session that the server has accepted."""
    state = SessionState()
    state.login_sent()
    state.accepted()
    return state


def test_only_an_answered_session_is_ready() -> None:
    """The next answer would be that of an interrupted statement."""
    for transaction, pipeline in itertools.product(TransactionStatus, PipelineStatus):
        ready = opened().is_ready(transaction, pipeline)
        assert ready == (transaction in AT_REST and pipeline is PipelineStatus.OFF), (transaction, pipeline)


@pytest.mark.parametrize("end", ["leaving", "server_closed"])
def test_a_session_that_has_ended_is_not_ready(end: str) -> None:
    """A statement would go to a server that has closed."""
    state = opened()
    if end == "leaving":
        state.leaving(TransactionStatus.IDLE)
    else:
        state.server_closed()
    assert not state.is_ready(TransactionStatus.IDLE, PipelineStatus.OFF)


def test_a_session_may_linger_unless_its_server_was_at_rest() -> None:
    """The lease of a statement that runs on would be granted to another worker."""
    for transaction in TransactionStatus:
        state = opened()
        state.leaving(transaction)
        assert state.may_linger == (transaction is not TransactionStatus.IDLE), transaction
        state.server_closed()
        assert not state.may_linger
        assert state.has_ended


def test_a_login_without_an_answer_may_linger() -> None:
    """The server may have begun a session for a login that was cut off."""
    state = SessionState()
    assert not state.may_linger
    state.login_sent()
    state.leaving(TransactionStatus.UNKNOWN)
    assert state.may_linger


def test_a_refused_login_does_not_linger() -> None:
    """Each try at a full server would cost a lease for its whole length."""
    state = SessionState()
    state.login_sent()
    state.refused()
    state.leaving(TransactionStatus.UNKNOWN)
    assert not state.may_linger


def test_a_refusal_counts_only_while_signing_in() -> None:
    """An open session would be taken for one that never was."""
    state = opened()
    state.refused()
    assert state.phase is Phase.OPEN
