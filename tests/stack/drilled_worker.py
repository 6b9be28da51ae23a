"""Real worker processes for the drills: forked from one warm process, each writing its holds to a journal.

Run as a program it reads orders, one JSON object a line: how many workers to start, and with which environment. Each
worker has the production Governor, made from that environment, and takes, holds and releases a governed connection
again and again until SIGTERM. The journal is standard output: one line for each step, written at once, so that a worker
that is killed has still said where it was. When the orders end, all workers are killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from pymysql import err

from connection_governor import Governor, GovernorError, NoConnectionsLeft
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment, governor_parts
from tests.stack.orders import FENCE, Order
from tests.support.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.core.deadline import Deadline
    from connection_governor.database.fence import Fence
    from connection_governor.mysql.opener import Opener
    from connection_governor.mysql.session import FencedConnection

PING_EACH_S = 0.1
LONGEST_REST_S = 0.05

JOURNAL = os.dup(1)


def say(step: str, **more: object) -> None:
    """Write one line to the journal."""
    line = {"pid": os.getpid(), "at_ms": SYSTEM_CLOCK.now_ms(), "step": step, **more}
    os.write(JOURNAL, json.dumps(line).encode() + b"\n")  # one write: a kill cannot halve it


class TellingOpener:
    """Says that a lease was granted and MySQL is about to be asked; the rest is the production opener's."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def new_session(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, deadline: Deadline | None = None
    ) -> FencedConnection:
        """As `Opener.new_session`."""
        say("opening")
        return self._opener.new_session(fence, program_name, usable_until_ms, deadline)


def governor_of(environment: Environment) -> Governor:
    """Return a governor as `Governor.from_env` does, with an opener that writes to the journal."""
    parts: dict[str, Any] = governor_parts(environment)
    make = parts["dependencies"].make_opener
    parts["dependencies"] = replace(parts["dependencies"], make_opener=lambda: TellingOpener(make()))
    return Governor(**parts, fence=FENCE)


class Worker:
    """One worker: one invocation after the other."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._governor = governor_of(Environment.current())
        self._is_over = False
        signal.signal(signal.SIGTERM, self._end)

    def work(self) -> None:
        """Work until SIGTERM; finish the last invocation."""
        say("born")
        while not self._is_over:
            try:
                self._invoke(Invocation(self._order.deadline_s))
            except NoConnectionsLeft:
                say("refused")
            except (GovernorError, err.MySQLError) as error:
                number = error.args[0] if isinstance(error, err.MySQLError) and error.args else None
                say("failed", error=type(error).__name__, number=number)
                time.sleep(random.random() * LONGEST_REST_S)
        say("over")

    def _invoke(self, invocation: Invocation) -> None:
        say("asking")
        timeout_s = self._order.timeout_s
        with self._governor.connection(timeout=timeout_s, context=invocation) as connection, _journalled(connection):
            self._hold(connection, invocation)
        say("closed")

    def _hold(self, connection: FencedConnection, invocation: Invocation) -> None:
        hold_s = random.uniform(*self._order.hold_s)
        ends_at = time.monotonic() + min(hold_s, invocation.get_remaining_time_in_millis() / 1_000)
        while (left := ends_at - time.monotonic()) > 0:
            connection.query("SELECT 1")
            time.sleep(min(left, PING_EACH_S))

    def _end(self, _number: int, _frame: object) -> None:
        self._is_over = True


@contextmanager
def _journalled(connection: FencedConnection) -> Iterator[None]:
    """Report what is held, from the grant (before connecting to MySQL) until just before the release."""
    lease = connection.lease
    assert lease is not None
    say("holding", from_ms=connection.acquired_ms, expires_at_ms=lease.expires_at_ms, lease_id=lease.lease_id)
    try:
        yield
    finally:
        say("closing")


def _be_worker(order: Order) -> NoReturn:
    status = 1
    try:
        os.environ.update(order.variables)
        Worker(order).work()
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """Carry out orders until they end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # metrics go to standard output: they are no part of the journal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead leave at once: a worker without a process is dead
    for line in sys.stdin:
        order = Order(**json.loads(line))
        for _ in range(order.workers):
            if os.fork() == 0:
                _be_worker(order)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
