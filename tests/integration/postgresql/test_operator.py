"""What the janitor's role can do on a real PostgreSQL: in its rounds, and for an operator whom nothing else lets in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
import pytest

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login, only
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.errors import InvalidRequest
from connection_governor.metrics import Reporter
from connection_governor.postgresql.opener import Opener
from connection_governor.server.janitor import Janitor
from connection_governor.server.postgresql import limit_function
from connection_governor.server.postgresql.watch import PostgreSQLWatch
from connection_governor.system import SYSTEM_CLOCK
from tests.support.virtual import SetEntropy, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.postgresql.session import FencedConnection
    from harness.stack.postgresql import PrivatePostgreSQL

WORKER, MONITOR = Login("op_worker", "workerSecret1"), Login("op_monitor", "monitorSecret1")
OVERDUE = "governor:k3Zq81Bd:orders#0"


class Place:
    """A server with the rights that the seed gives."""

    def __init__(self, server: PrivatePostgreSQL) -> None:
        assert server.port is not None
        self.server = server
        self.target = Target(server.host, server.port, "postgres", tls_ca=str(server.ca_path))

    def opener(self, user: Login) -> Opener:
        """Return what opens sessions of this role."""
        return Opener(self.target, lambda _deadline: only(user)(), SYSTEM_CLOCK)

    def open(self, user: Login, name: str = "") -> FencedConnection:
        """Return a session."""
        return self.opener(user).open(Fence(idle_seconds=60), name, None, autocommit=True)


@pytest.fixture(scope="module")
def place(postgresql: PrivatePostgreSQL) -> Iterator[Place]:
    """Yield the shared server."""
    postgresql.create_user(WORKER.username, WORKER.password)
    postgresql.create_user(MONITOR.username, MONITOR.password, grants=["pg_read_all_stats", "pg_signal_backend"])
    with contextlib.closing(postgresql.root()) as root, root.cursor() as cursor:
        limit_function.make(cursor, worker=WORKER.username, monitor=MONITOR.username)
    yield Place(postgresql)
    with contextlib.closing(postgresql.root()) as root, root.cursor() as cursor:
        limit_function.remove(cursor, worker=WORKER.username)


@pytest.fixture
def watch(place: Place) -> Iterator[PostgreSQLWatch]:
    """Yield the janitor's view of it."""
    with contextlib.closing(PostgreSQLWatch(lambda: place.opener(MONITOR), lambda: [WORKER.username])) as watch:
        yield watch


def test_a_round_ends_the_session_whose_lease_is_gone_and_no_other(place: Place, watch: PostgreSQLWatch) -> None:
    """A kill too many ends a live connection; one too few leaves the server above its budget."""
    operations = Operations(MemoryStore(), VirtualClock(), SetEntropy())
    operations.set_budget("orders", 3)
    names = (OVERDUE, "governor:k3Zq81Bd:billing#0", "psql")
    with contextlib.ExitStack() as stack:
        overdue, *others = [stack.enter_context(contextlib.closing(place.open(WORKER, name))) for name in names]
        done = Janitor(operations, watch, Reporter(lambda _line: None), SYSTEM_CLOCK).round("orders")
        assert done.blind is None
        assert [session.program_name for session in done.killed] == [OVERDUE]
        with pytest.raises(psycopg.OperationalError):
            overdue.execute("SELECT 1")
        for other in others:
            other.execute("SELECT 1")


def test_an_operator_ends_a_session_that_no_lease_covers(place: Place, watch: PostgreSQLWatch) -> None:
    """A program that connects without the governor uses up its budget."""
    with contextlib.closing(place.open(WORKER, "psql")) as session:
        (seen,) = watch.observe().sessions
        assert (seen.connection_id, seen.lease_id) == (session.info.backend_pid, None)
        assert not watch.kill(seen)
        assert watch.end(seen)
        assert not watch.end(seen)


def _opened_or_refused(place: Place, sessions: contextlib.ExitStack) -> psycopg.OperationalError | None:
    try:
        sessions.callback(place.open(WORKER).close)
    except psycopg.OperationalError as refused:
        return refused
    return None


def test_a_janitor_that_is_in_stays_in_when_all_connections_are_used_up(place: Place, watch: PostgreSQLWatch) -> None:
    """RDS makes nobody a superuser, whose places are free: no operator could see whose sessions these are."""
    watch.observe()
    with contextlib.ExitStack() as sessions:
        while (refused := _opened_or_refused(place, sessions)) is None:
            pass
        assert refused.sqlstate == "53300"
        assert len(watch.observe().sessions) > 1


def test_a_session_that_the_server_ended_is_opened_anew(place: Place, watch: PostgreSQLWatch) -> None:
    """The environment was frozen for longer than the session may idle: the next round must not be blind for it."""
    watch.observe()
    place.server.execute(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{MONITOR.username}'"
    )
    assert watch.observe().names_known


def test_the_limit_is_set_for_the_seeded_role(place: Place, watch: PostgreSQLWatch) -> None:
    """`governor limit` at 3 a.m. is the fastest way to more connections."""
    watch.limit(4)
    with contextlib.closing(place.server.root()) as root:
        limit = root.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", (WORKER.username,)).fetchone()
    assert limit == (4,)
    watch.limit(100)


def test_another_stacks_function_stays(place: Place) -> None:
    """Two stacks in one database have one function each."""
    place.server.execute("CREATE ROLE other_worker")
    with contextlib.closing(place.server.root()) as root, root.cursor() as cursor:
        limit_function.make(cursor, worker="other_worker", monitor=MONITOR.username)
        limit_function.remove(cursor, worker="other_worker")
        limit_function.remove(cursor, worker="other_worker")
        cursor.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'connection_governor'::regnamespace")
        assert cursor.fetchall() == [(f"limit_{WORKER.username}",)]
    place.server.execute("DROP ROLE other_worker")


def test_a_watch_without_users_is_refused_by_name(place: Place) -> None:
    """A typing mistake in the template must not pass for a database without sessions."""
    with (
        contextlib.closing(PostgreSQLWatch(lambda: place.opener(MONITOR), list)) as watch,
        pytest.raises(InvalidRequest, match="users"),
    ):
        watch.observe()
