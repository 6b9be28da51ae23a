"""A governed MySQL connection beside PyMySQL's own: kept between invocations, and opened in each."""

from __future__ import annotations

import json
import ssl
from contextlib import ExitStack, closing, redirect_stdout
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pymysql

from bench.direct import governor_cycle
from bench.measure import FULL, Spread, interleaved, ratio
from bench.results import Row
from bench.tables import governed_table
from connection_governor.client.governor import Governor
from connection_governor.database.credentials import DatabaseCredentials
from connection_governor.database.target import Target
from connection_governor.mysql.connect import is_denied
from connection_governor.mysql.opener import Opener
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import governor_parts
from harness.stack.dynamodb_local import dynamodb_local
from harness.stack.mariadb import PrivateMariaDB
from tests.support.calm_sessions import CalmOpener
from tests.support.fleet import Fleet
from tests.support.hub import MS, SECOND
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.measure import Effort, Series
    from connection_governor.client.ports import Dependencies

NAME = "connections"
USER, PASSWORD = "worker", "benchmark-only"  # of a server that lives as long as this run
QUERY = "SELECT 1"
DEADLINE_S = 3.0
KEEP_SECONDS = 60
MOST_ADDED_MS = 0.3
MOST_EXTRA_TRIPS = 2
MOST_OPENING = 1.10
MOST_REQUESTS = 0.05


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure on MariaDB over TLS, with the leases in DynamoDB Local."""
    with ExitStack() as until_end:
        log = until_end.enter_context(Path("/dev/null").open("w", encoding="utf-8"))
        url = until_end.enter_context(dynamodb_local())
        server = until_end.enter_context(PrivateMariaDB())
        server.create_user(USER, PASSWORD)
        bench = _Bench(url, server, log, until_end)
        yield from bench.kept(effort)
        yield from bench.opened(effort.scaled(0.3))
    yield from _requests(600 if effort is FULL else 20)


class _Bench:
    def __init__(self, url: str, server: PrivateMariaDB, log: Any, until_end: ExitStack) -> None:  # noqa: ANN401  # a file
        self._url, self._server, self._log, self._until_end = url, server, log, until_end
        self._tls = ssl.create_default_context(cafile=str(server.ca_path))

    def kept(self, effort: Effort) -> Iterator[Row]:
        """Measure the warm path."""
        governor = self._governor(KEEP_SECONDS)
        self._until_end.callback(_closed_silently, governor, self._log)
        raw = self._until_end.enter_context(closing(self._connect()))
        taken = self._taken({"ours": _governed(governor), "raw": lambda: _ask(raw)}, effort)
        added = Spread.of(
            [ours - theirs for ours, theirs in zip(taken["ours"].wall_ms, taken["raw"].wall_ms, strict=True)]
        )
        details = {name: series.report() for name, series in taken.items()}
        yield Row(
            NAME,
            "warm invocation, kept connection: ms more than a raw kept PyMySQL connection",
            f"at most {MOST_ADDED_MS}",
            str(added),
            added.median <= MOST_ADDED_MS,
            details,
        )
        trips = _round_trips(governor)
        yield Row(
            NAME,
            "round trips beside the query's own",
            f"at most {MOST_EXTRA_TRIPS}",
            str(trips - 1),
            trips - 1 <= MOST_EXTRA_TRIPS,
        )

    def opened(self, effort: Effort) -> Iterator[Row]:
        """Measure the cold path: open, query and close in each invocation."""
        two_requests = governor_cycle(governed_table(self._url))

        def by_hand() -> None:
            two_requests()
            with closing(self._connect()) as connection:
                _ask(connection)

        taken = self._taken({"ours": _governed(self._governor(0)), "by hand": by_hand}, effort)
        opening = ratio(taken["ours"].wall_ms, taken["by hand"].wall_ms)
        details = {name: series.report() for name, series in taken.items()}
        yield Row(
            NAME,
            "open + query + close over TLS in each invocation: wall / PyMySQL (shared context) + the two requests",
            f"at most {MOST_OPENING}",
            str(opening),
            opening.median <= MOST_OPENING,
            details,
        )

    def _taken(self, ways: dict[str, Callable[[], object]], effort: Effort) -> dict[str, Series]:
        with redirect_stdout(self._log):
            return interleaved(ways, effort)

    def _connect(self) -> Any:  # noqa: ANN401  # PyMySQL's connection
        return pymysql.connect(
            host=self._server.host, port=self._server.port or 0, user=USER, password=PASSWORD, ssl=self._tls
        )

    def _governor(self, keep_seconds: int) -> Governor:
        parts = governor_parts(governed_table(self._url))
        secret = json.dumps({"username": USER, "password": PASSWORD})
        target = Target(self._server.host, self._server.port or 0, tls_ca=str(self._server.ca_path))
        credentials = DatabaseCredentials(lambda *_, **__: secret, is_denied)
        opener = Opener(target, partial(credentials.attempts, "arn"), SYSTEM_CLOCK)
        parts["dependencies"] = _with_opener(parts["dependencies"], lambda: opener)
        return Governor(**(parts | {"keep_seconds": keep_seconds}))


def _closed_silently(governor: Governor, log: Any) -> None:  # noqa: ANN401  # a file
    with redirect_stdout(log):
        governor.close()


def _with_opener(dependencies: Dependencies, opener: Callable[[], Any]) -> Dependencies:
    from dataclasses import replace  # noqa: PLC0415  # only here

    return replace(dependencies, make_opener=opener)


def _governed(governor: Governor) -> Callable[[], object]:
    def invocation() -> None:
        with governor.connection(context=Invocation(DEADLINE_S)) as connection:
            _ask(connection)

    return invocation


def _ask(connection: Any) -> None:  # noqa: ANN401  # either connection
    with connection.cursor() as cursor:
        cursor.execute(QUERY)
        cursor.fetchall()


def _round_trips(governor: Governor) -> int:
    """Return how often a warm invocation writes to MySQL's socket: each write waits for its answer."""
    with governor.connection(context=Invocation(DEADLINE_S)) as connection:
        counted = _CountedSocket(connection._sock)  # noqa: SLF001  # where PyMySQL writes
        connection._sock = counted  # noqa: SLF001
    counted.writes = 0
    _governed(governor)()
    return counted.writes


class _CountedSocket:
    def __init__(self, inner: Any) -> None:  # noqa: ANN401  # a socket
        self._inner = inner
        self.writes = 0

    def sendall(self, data: bytes) -> None:
        self.writes += 1
        self._inner.sendall(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the socket has
        return getattr(self._inner, name)


def _requests(invocations: int) -> Iterator[Row]:
    asked = warm_requests(invocations)
    yield Row(
        NAME,
        f"DynamoDB requests an invocation, one a second, keep_seconds {KEEP_SECONDS}",
        f"at most {MOST_REQUESTS}",
        f"{asked:.3f}",
        asked <= MOST_REQUESTS or invocations < 100,  # noqa: PLR2004  # the first acquire weighs too much in few
    )


def warm_requests(invocations: int) -> float:
    """Return the DynamoDB requests of one invocation at one a second, in virtual time, on sessions that never fail."""
    fleet = Fleet(Random(1), budget=36)  # noqa: S311  # a simulation
    governor = fleet.governor("checkout/1", opener=CalmOpener(fleet.clock), keep_seconds=KEEP_SECONDS)

    def environment() -> None:
        for _ in range(invocations):
            with governor.connection(context=Invocation(DEADLINE_S, fleet.clock)):
                fleet.hub.sleep(10 * MS)
            fleet.hub.sleep(990 * MS)

    fleet.hub.start(environment)
    fleet.hub.run_for(10 * invocations * SECOND)
    return sum(fleet.store.spent.values()) / invocations
