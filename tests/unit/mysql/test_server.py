"""What a session's server tells about an earlier session."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connection_governor.database.server import DatabaseServer
from connection_governor.mysql.server import server_of

THEN = DatabaseServer("a", started_s=1_000, is_writer=True)


@pytest.mark.parametrize(
    ("now", "ended"),
    [
        (THEN, False),
        (replace(THEN, started_s=1_001), False),  # a start is known to a second
        (replace(THEN, started_s=1_002), True),
        (replace(THEN, started_s=900), False),
        (replace(THEN, started_s=1_002, is_writer=False), True),  # whatever it does now, its process is another
        (replace(THEN, name="b"), True),
        (replace(THEN, name="b", started_s=5), True),
        (replace(THEN, name="b", is_writer=False), False),
    ],
)
def test_only_a_restart_or_another_writer_proves_an_earlier_session_ended(now: DatabaseServer, *, ended: bool) -> None:
    """A lease is released while the server works for its session, or is left to expire after a failover."""
    assert now.proves_ended(THEN) is ended


def test_a_reader_before_proves_nothing_for_a_writer_after() -> None:
    """A session of a reader that still runs loses its lease when the next one is opened on the writer."""
    assert not THEN.proves_ended(replace(THEN, name="b", is_writer=False))


@pytest.mark.parametrize(
    ("read_only", "innodb_read_only", "is_writer"),
    [(0, 0, True), (1, 0, False), (0, 1, False), ("OFF", "OFF", True), ("ON", "0", False), ("0", "1", False)],
)
def test_a_server_is_a_writer_where_neither_variable_says_otherwise(
    read_only: object, innodb_read_only: object, *, is_writer: bool
) -> None:
    """Aurora's readers say so by `innodb_read_only` alone."""
    server = server_of(("uuid", read_only, innodb_read_only, 1_795_284_746.0))
    assert server == DatabaseServer("uuid", 1_795_284_746, is_writer)
