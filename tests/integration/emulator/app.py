"""The function under test: holds a governed connection and then does what the event says. Runs below the emulator."""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from pymysql.constants import COMMAND

from connection_governor.client.governor import Governor
from connection_governor.client.lease_file import FOLDER
from connection_governor.core.lease import ShardKey, Wanted
from connection_governor.mysql.connect import FencedConnection, Target, new_session
from connection_governor.mysql.credentials import Credentials, only
from connection_governor.mysql.fence import Fence
from connection_governor.wiring import Environment, governor_parts


class Opener:
    """Opens the test's sessions."""

    def new_session(
        self, fence: Fence, program_name: str, usable_until_ms: int | None, _deadline: object = None
    ) -> FencedConnection:
        """See `Opener.new_session`."""
        target = Target("127.0.0.1", int(os.environ["PORT"]), tls_ca="/opt/ca.pem")
        attempts = only(Credentials("crashing", "pw"))
        return new_session(target, attempts, fence, program_name=program_name, usable_until_ms=usable_until_ms)


@cache
def governor() -> Governor:
    """Return this environment's governor."""
    parts = governor_parts(Environment.current())
    if "PORT" in os.environ:
        parts["outside"] = replace(parts["outside"], opener=Opener)
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
    if act == "nothing":
        return act
    if act == "lease":
        with governor().lease("orders", context=context) as lease:
            time.sleep(event.get("sleep", 0))
            return lease.lease_id
    if act == "measure":
        return measure(event["times"])
    if act == "noted":
        return [noted.name for noted in Path(FOLDER).iterdir()] if Path(FOLDER).exists() else None
    with governor().connection("orders", context=context, keep_seconds=event.get("keep", 0)) as connection:
        if act == "keep":
            time.sleep(event.get("sleep", 0))
            held = connection.lease
            return {"pid": os.getpid(), "lease": held.lease_id, "holder": held.holder} if held else None
        crash(act, connection)
        return connection.lease.lease_id if connection.lease else None


def crash(act: str, connection: FencedConnection) -> None:
    """End in the middle of a body, where the event says so."""
    if act == "hang":
        time.sleep(60)
    if act == "exit":
        os._exit(1)
    if act == "kill":
        die()
    if act == "kill in a statement":
        threading.Timer(0.5, die).start()
        connection.query("SELECT SLEEP(6)")
    if act == "kill with an unread answer":
        threading.Timer(0.5, die).start()
        connection._execute_command(COMMAND.COM_QUERY, "CALL test.answer_and_go_on()")
        time.sleep(60)


def measure(times: int) -> float:
    """Return the median microseconds that the lease file of one connection takes."""
    notes = governor()._outside.notes
    wanted = Wanted("orders", "k3Zq81Bd", "checkout/2f1c", 1, 1_800_000_000_000)
    lease = wanted.lent_by(ShardKey("orders", 0), 1)
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
