"""Real sessions of a test PostgreSQL: a worker's role, a short fence, and ways to open and to wait."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.database.fence import Fence
from connection_governor.postgresql.opener import Opener
from connection_governor.postgresql.refusal import is_denied
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.database.target import Target

WORKER = Login("worker", "worker's secret")
SHORT = Fence(idle_seconds=1, statement_seconds=0.5, write_seconds=1)
NAME = "governor:abcdefgh:orders#0"


def opener_of(target: Target, login: Login = WORKER) -> Opener:
    """Return an opener with a secret that does not change."""
    secret = json.dumps({"username": login.username, "password": login.password})
    return Opener(
        target, partial(DatabaseCredentials(lambda *_, **__: secret, is_denied).attempts, "arn"), SYSTEM_CLOCK
    )


def until(found: Callable[[], Any], timeout_s: float = 10.0) -> float:
    """Wait until something is found; return after how many seconds."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < timeout_s, "it did not come in time"
        time.sleep(0.01)
    return time.monotonic() - began
