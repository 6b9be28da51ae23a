"""Commands that go to libpq directly: one round trip, whatever state psycopg's own objects are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import ExecStatus
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult


def carried_out(
    pgconn: PGconn, commands: Sequence[bytes], values: Sequence[bytes] | None = None
) -> PQGen[list[PGresult]]:
    """Carry commands out, each in a transaction of its own; return their results. Yields what to wait for.

    Args:
        pgconn: libpq's connection.
        commands: one statement each.
        values: for the places `$1` and so on, as text.

    Raises:
        psycopg.Error: the first that the server refused.
    """
    pgconn.enter_pipeline_mode()
    for command in commands:
        pgconn.send_query_params(command, values)
        pgconn.pipeline_sync()
    yield from _sent(pgconn)
    results: list[PGresult] = []
    for _ in commands:
        results += yield from _until_sync(pgconn)
    pgconn.exit_pipeline_mode()
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return results


def _sent(pgconn: PGconn) -> PQGen[None]:
    while pgconn.flush():
        ready = yield Wait.RW
        if ready & Ready.R:
            pgconn.consume_input()


def _until_sync(pgconn: PGconn) -> PQGen[list[PGresult]]:
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)
