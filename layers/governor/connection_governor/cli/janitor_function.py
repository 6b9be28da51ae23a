"""The commands `sessions`, `kill` and `limit`, which reach the database itself through the janitor function.

That function runs inside the database's network, with its own rights: nothing else needs to reach the database.
"""

from __future__ import annotations

import getpass
import json
import socket
from typing import TYPE_CHECKING, Any

from connection_governor.errors import GovernorUnavailable, InvalidRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    JanitorCall = Callable[[dict[str, Any]], dict[str, Any]]

TIMEOUT_S = 50.0  # the function's own time-out


def janitor_call(invoke: Callable[[bytes], tuple[bytes, str | None]]) -> JanitorCall:
    """Return a call of the janitor function, from an action to its answer. Raises the error that an answer carries."""

    def call(action: dict[str, Any]) -> dict[str, Any]:
        body, failure = invoke(json.dumps({"by": _operator(), **action}).encode())
        if failure:
            raise GovernorUnavailable(f"the janitor function failed ({failure}): see its log", retryable=False)
        answer: dict[str, Any] = json.loads(body)
        error = answer.get("error")
        if error and error["code"] == "invalid_request":
            raise InvalidRequest(error["field"], error["message"])
        if error:
            raise GovernorUnavailable(error["message"], retryable=False)
        return answer

    return call


def sessions(call: JanitorCall, options: argparse.Namespace) -> list[str]:
    """Return the governed users' sessions as the server lists them, one a line, or as JSON."""
    answer = call({"action": "sessions", "database": options.database})
    if options.json:
        return [json.dumps(answer)]
    lines = [f"{'session':>8}  {'user':<16}  {'command':<8}  {'seconds':>7}  {'lease':<16}  holder"]
    lines += [_line(row) for row in answer["sessions"]]
    if not answer["names_known"]:
        lines.append("this server keeps no names of sessions (performance_schema is off): leases are not known")
    return lines


def kill(call: JanitorCall, options: argparse.Namespace) -> list[str]:
    """End one session, or the sessions of one lease; the lease itself comes back when its holder releases it."""
    chosen = {"session": options.session} if options.session is not None else {"lease_id": options.lease}
    killed = call({"action": "kill", "database": options.database, **chosen})["killed"]
    if options.json:
        return [json.dumps({"killed": killed})]
    return [f"session {number} ended" for number in killed] or ["no such session"]


def limit(call: JanitorCall, options: argparse.Namespace) -> list[str]:
    """Set the server's own limit of the seeded worker's user; the budget stays as it is."""
    answer = call({"action": "limit", "database": options.database, "connections": options.connections})
    if options.json:
        return [json.dumps(answer)]
    return [
        f"the database lets the worker's user hold {answer['limit']} connections; the budget is {answer['allowed']}",
        "the next deployment that runs the seed sets it to the budget again",
    ]


def _line(row: dict[str, Any]) -> str:
    lease, holder = row["lease_id"] or "(none)", row["holder"] or ""
    return f"{row['session']:>8}  {row['user']:<16}  {row['command']:<8}  {row['seconds']:>7}  {lease:<16}  {holder}"


def _operator() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"[:128]
    except OSError:  # a user without a name
        return "unknown"
