"""The function under test: holds a governed connection and then does what the event says. Runs below the emulator."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import COMMAND

from connection_governor.client.governor import Governor
from connection_governor.client.lease_file import FOLDER
from connection_governor.core.lease import ShardKey, Wanted
from connection_governor.database.credentials import Login, only
from connection_governor.database.target import Target
from connection_governor.errors import LeaseLost
from connection_governor.mysql.connect import FencedConnection, new_session
from connection_governor.wiring import Environment, governor_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.database.fence import Fence


class Opener:
    """Opens the test's sessions."""

    def new_session(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, _deadline: object = None
    ) -> FencedConnection:
        """See `Opener.new_session`."""
        target = Target("127.0.0.1", int(os.environ["PORT"]), tls_ca="/opt/ca.pem")
        attempts = only(Login("crashing", "pw"))
        return new_session(target, attempts, fence, program_name=program_name, usable_until_ms=usable_until_ms)


@cache
def governor() -> Governor:
    """Return this environment's governor."""
    parts = governor_parts(Environment.current())
    if "PORT" in os.environ:
        parts["dependencies"] = replace(parts["dependencies"], make_opener=Opener)
    return Governor(**parts)


class AnySession:
    """Where a session's socket is."""

    local_port = 50_000
    port = 3_306


def die() -> None:
    """Kill this process, as the kernel does for lack of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def handler(event: dict[str, Any], context: Any) -> Any:  # noqa: ANN401 - awslambdaric's own
    """Do as the event says."""
    act = event["act"]
    if act in WITHOUT_A_SESSION:
        return WITHOUT_A_SESSION[act](event, context)
    with governor().connection("orders", context=context, keep_seconds=event.get("keep", 0)) as connection:
        if act in WITH_A_SESSION:
            WITH_A_SESSION[act](event, context, connection)
        if act == "overrun":
            return answers(connection)
        held = connection.lease
        return {"pid": os.getpid(), "lease": held.lease_id, "holder": held.holder} if held else None


def leased(event: dict[str, Any], context: Any) -> str:  # noqa: ANN401 - as above
    """Hold a lease, and no connection."""
    with governor().lease("orders", context=context) as lease:
        time.sleep(event.get("sleep", 0))
        return lease.lease_id


def overrun_with_another_driver(_event: dict[str, Any], context: Any) -> str:  # noqa: ANN401 - as above
    """Hold a session that knows of no lease until the deadline has passed."""
    session = partial(pymysql.connect, host="127.0.0.1", port=int(os.environ["PORT"]), ssl_ca="/opt/ca.pem")
    with governor().lease("orders", context=context), closing(session(user="crashing", password="pw")) as other:
        overrun(context)
        return answers(other)


def noted() -> list[str] | None:
    """Return the lease files."""
    return [noted.name for noted in Path(FOLDER).iterdir()] if Path(FOLDER).exists() else None


def killed_in_a_statement(connection: FencedConnection) -> None:
    """Be killed while MySQL works for this process."""
    threading.Timer(0.5, die).start()
    connection.query("SELECT SLEEP(6)")


def killed_with_an_unread_answer(connection: FencedConnection) -> None:
    """Be killed while a procedure goes on after its first answer."""
    threading.Timer(0.5, die).start()
    connection._execute_command(COMMAND.COM_QUERY, "CALL test.answer_and_go_on()")
    time.sleep(60)


def overrun(context: Any) -> None:  # noqa: ANN401 - awslambdaric's own
    """Go on until the deadline has passed."""
    while context.get_remaining_time_in_millis() > 0:
        time.sleep(0.01)
    time.sleep(0.05)


def answers(session: pymysql.Connection[Any]) -> str:
    """Return "yes" where a statement succeeds, else the name of its error."""
    try:
        session.query("SELECT 1")
    except LeaseLost as error:
        return type(error).__name__
    return "yes"


def measure(times: int) -> float:
    """Return the median microseconds that the lease file of one connection takes."""
    notes = governor()._dependencies.lease_file
    wanted = Wanted("orders", "k3Zq81Bd", "checkout/2f1c", 1, 1_800_000_000_000)
    lease = wanted.granted_by(ShardKey("orders", 0), 1)
    took = []
    for _ in range(times):
        started = time.perf_counter()
        notes.wanted(wanted)
        notes.held(lease)
        notes.opened(lease, AnySession)
        notes.working(lease.lease_id, working=False)
        notes.working(lease.lease_id, working=True)
        notes.working(lease.lease_id, working=False)
        notes.closed(lease)
        notes.gone(lease.lease_id)
        took.append(time.perf_counter() - started)
    return median(took) * 1e6


WITHOUT_A_SESSION: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "nothing": lambda _event, _context: "nothing",
    "lease": leased,
    "measure": lambda event, _context: measure(event["times"]),
    "noted": lambda _event, _context: noted(),
    "overrun with another driver": overrun_with_another_driver,
}
WITH_A_SESSION: dict[str, Callable[[dict[str, Any], Any, FencedConnection], object]] = {
    "keep": lambda event, _context, _connection: time.sleep(event.get("sleep", 0)),
    "hang": lambda _event, _context, _connection: time.sleep(60),
    "exit": lambda _event, _context, _connection: os._exit(1),
    "kill": lambda _event, _context, _connection: die(),
    "kill in a statement": lambda _event, _context, connection: killed_in_a_statement(connection),
    "kill with an unread answer": lambda _event, _context, connection: killed_with_an_unread_answer(connection),
    "overrun": lambda _event, context, _connection: overrun(context),
}
