"""A governed connection beside the bare driver's: kept between invocations, and opened in each. On each kind."""

from __future__ import annotations

from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from bench.direct import governor_cycle
from bench.measure import FULL, Spread, interleaved, ratio
from bench.results import Row
from bench.tables import governed_table
from connection_governor.client.governor import Governor
from connection_governor.wiring import governor_parts
from harness.stack.dynamodb_local import dynamodb_local
from harness.stack.engines import SERVERS
from tests.support.calm_sessions import CalmOpener
from tests.support.fleet import Fleet
from tests.support.hub import MS, SECOND
from tests.support.invocation import Invocation
from tests.support.kinds import KINDS, Kind
from tests.support.moving_address import MovingAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.measure import Effort, Series
    from connection_governor.database.target import Target

NAME = "connections"
QUERY = "SELECT 1"
DEADLINE_S = 3.0
KEEP_SECONDS = 60
MOST_ADDED_MS = 0.3
MOST_EXTRA_TRIPS = 2
MOST_OPENING = 1.10
MOST_REQUESTS = 0.05


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure on each kind of database over TLS, with the leases in DynamoDB Local."""
    with ExitStack() as until_end:
        log = until_end.enter_context(Path("/dev/null").open("w", encoding="utf-8"))
        url = until_end.enter_context(dynamodb_local())
        for engine, make in KINDS.items():
            with SERVERS[engine]() as server, ExitStack() as of_server:
                kind: Kind = make(server)
                kind.prepare()
                bench = _Bench(url, kind, log, of_server)
                yield from bench.kept(effort)
                yield from bench.opened(effort.scaled(0.3))
    yield from _requests(600 if effort is FULL else 20)


class _Bench:
    def __init__(self, url: str, kind: Kind, log: Any, until_end: ExitStack) -> None:  # noqa: ANN401  # a file
        self._url, self._kind, self._log, self._until_end = url, kind, log, until_end
        self._label = kind.server.LABEL

    def kept(self, effort: Effort) -> Iterator[Row]:
        """Measure the warm path."""
        governor = self._governor(KEEP_SECONDS)
        raw = self._until_end.enter_context(closing(self._kind.raw()))
        taken = self._taken({"ours": self._governed(governor), "raw": lambda: _ask(raw)}, effort)
        added = Spread.of(
            [ours - theirs for ours, theirs in zip(taken["ours"].wall_ms, taken["raw"].wall_ms, strict=True)]
        )
        details = {name: series.report() for name, series in taken.items()}
        yield Row(
            NAME,
            f"{self._label}: warm invocation, kept connection: ms more than the raw driver's kept connection",
            f"at most {MOST_ADDED_MS}",
            str(added),
            added.median <= MOST_ADDED_MS,
            details,
        )
        trips = self._round_trips()
        yield Row(
            NAME,
            f"{self._label}: round trips beside the query's own",
            f"at most {MOST_EXTRA_TRIPS}",
            str(trips - 1),
            trips - 1 <= MOST_EXTRA_TRIPS,
        )

    def opened(self, effort: Effort) -> Iterator[Row]:
        """Measure the cold path: open, query and close in each invocation."""
        two_requests = governor_cycle(governed_table(self._url))

        def by_hand() -> None:
            two_requests()
            with closing(self._kind.raw()) as connection:
                _ask(connection)

        taken = self._taken({"ours": self._governed(self._governor(0)), "by hand": by_hand}, effort)
        opening = ratio(taken["ours"].wall_ms, taken["by hand"].wall_ms)
        details = {name: series.report() for name, series in taken.items()}
        yield Row(
            NAME,
            f"{self._label}: open + query + close over TLS in each invocation: wall / raw driver + the two requests",
            f"at most {MOST_OPENING}",
            str(opening),
            opening.median <= MOST_OPENING,
            details,
        )

    def _taken(self, ways: dict[str, Callable[[], object]], effort: Effort) -> dict[str, Series]:
        with redirect_stdout(self._log):
            return interleaved(ways, effort)

    def _round_trips(self) -> int:
        """Return how often a warm invocation of one query waits for the server."""
        with MovingAddress(self._kind.target.port) as counted:
            governor = self._governor(KEEP_SECONDS, replace(self._kind.target, port=counted.port))
            invocation = self._governed(governor)
            with redirect_stdout(self._log):
                invocation()
                before = counted.turns
                invocation()
                turns = counted.turns - before
                governor.close()
        return turns

    def _governed(self, governor: Governor) -> Callable[[], object]:
        def invocation() -> None:
            with governor.connection(context=Invocation(DEADLINE_S), **self._kind.without_transaction) as connection:
                _ask(connection)

        return invocation

    def _governor(self, keep_seconds: int, target: Target | None = None) -> Governor:
        parts = governor_parts(governed_table(self._url))
        opener = self._kind.opener(target=target)
        parts["dependencies"] = replace(parts["dependencies"], make_opener=lambda: opener)
        governor = Governor(**(parts | {"keep_seconds": keep_seconds}))
        self._until_end.callback(_closed_silently, governor, self._log)
        return governor


def _closed_silently(governor: Governor, log: Any) -> None:  # noqa: ANN401  # a file
    with redirect_stdout(log):
        governor.close()


def _ask(connection: Any) -> None:  # noqa: ANN401  # either connection
    with connection.cursor() as cursor:
        cursor.execute(QUERY)
        cursor.fetchall()


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
