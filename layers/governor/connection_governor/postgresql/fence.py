"""The fence of a PostgreSQL session, in its start-up packet: no moment of the session is without it.

What the start-up packet sets is also what `RESET ALL` and `DISCARD ALL` return to. A body that sets one of these
itself, as with `SET statement_timeout = 0`, leaves the fence until then. As on MySQL, only the janitor's end of the
session covers that.

NOT covered: a COMMIT that waits for a standby; a client that is frozen in the middle of `COPY ... FROM STDIN` or of a
pipeline. The server then waits for more of the statement, and no limit of its own ends that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor.database.fence import Fence

CHECK_CLIENT_MS: Final = 100
"""How often the server looks, within a statement, whether its client has gone: one system call each time."""

_PROBE_SECONDS: Final = 1
_PROBES: Final = 3
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_DRIVER_OPTIONS = ("autocommit", "context", "cursor_factory", "prepare_threshold", "row_factory")


def limits(fence: Fence) -> dict[str, str]:
    """Return the run-time parameters that are the fence, by name: for any driver, in its start-up packet."""
    idle_ms = str(fence.idle_ms)
    return {
        "idle_session_timeout": idle_ms,
        "idle_in_transaction_session_timeout": idle_ms,
        "statement_timeout": str(round(fence.statement_seconds * 1_000)),
        "lock_timeout": str(fence.lock_wait_seconds * 1_000),
        "client_connection_check_interval": str(CHECK_CLIENT_MS),
        "tcp_user_timeout": str(fence.write_seconds * 1_000),
        "tcp_keepalives_idle": str(fence.idle_seconds),
        "tcp_keepalives_interval": str(_PROBE_SECONDS),
        "tcp_keepalives_count": str(_PROBES),
    }


def start_options(fence: Fence, settings: Mapping[str, str]) -> str:
    """Return the fence and a session's other parameters as libpq's `options`."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in {**settings, **limits(fence)}.items())


def session_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a caller's options as `Opener.new_session` takes them.

    Raises:
        InvalidRequest: an option that the governor sets itself, or that would not survive a reset; `field` is its name.
    """
    for name in options.keys() - {*_DRIVER_OPTIONS, "settings"}:
        allowed = ", ".join(sorted((*_DRIVER_OPTIONS, "settings")))
        raise InvalidRequest(name, f"cannot be set on a governed connection; these can: {allowed}")
    settings = options.get("settings", {})
    for name in settings:
        if not _NAME.fullmatch(name):
            raise InvalidRequest("settings", f"{name!r} is not the name of a run-time parameter")
        if name.lower() in _GOVERNED:
            raise InvalidRequest("settings", f"{name} is set by the governor")
    return {**options, "settings": {name: str(value) for name, value in settings.items()}}


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


_GOVERNED: Final = {
    "application_name",
    "client_connection_check_interval",
    "client_encoding",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_user_timeout",
}
