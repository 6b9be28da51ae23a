"""The start of a MySQL session: its fence, character set and so on, in one statement."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from connection_governor.core.values import dataclass
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor.database.fence import Fence

_WORD = r"[A-Za-z0-9_]+"
_TIME_ZONE = r"[A-Za-z0-9_+:/-]+"
_SQL_MODE = r"[A-Za-z0-9_,]*"


@dataclass(frozen=True, slots=True)
class SessionStart:
    """A session's start beside the fence, and again after each reset.

    Attributes:
        charset: character set of the session.
        collation: its collation, or None for the server's choice.
        autocommit: None leaves the server's default.
        time_zone: such as `+00:00` or `Europe/Berlin`; None leaves the server's default.
        sql_mode: such as `ANSI,TRADITIONAL`; None leaves the server's default.
    """

    charset: str = "utf8mb4"
    collation: str | None = None
    autocommit: bool | None = False
    time_zone: str | None = None
    sql_mode: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that would not be safe in the statement."""
        _matches("charset", self.charset, _WORD)
        _matches("collation", self.collation, _WORD)
        _matches("time_zone", self.time_zone, _TIME_ZONE)
        _matches("sql_mode", self.sql_mode, _SQL_MODE)


_START_OPTIONS = ("charset", "collation", "autocommit", "time_zone", "sql_mode")
_DRIVER_OPTIONS = ("binary_prefix", "client_flag", "conv", "cursorclass", "max_allowed_packet", "use_unicode")


def session_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a caller's options as `connect.new_session` takes them.

    Raises:
        InvalidRequest: an option that the governor sets itself, or that would not survive a reset; `field` is its name.
    """
    for name in options.keys() - {*_START_OPTIONS, *_DRIVER_OPTIONS}:
        allowed = ", ".join(sorted((*_START_OPTIONS, *_DRIVER_OPTIONS)))
        raise InvalidRequest(name, f"cannot be set on a governed connection; these can: {allowed}")
    start = {name: options[name] for name in _START_OPTIONS if name in options}
    own = {name: value for name, value in options.items() if name in _DRIVER_OPTIONS}
    return own | ({"start": SessionStart(**start)} if start else {})


def set_statement(fence: Fence, start: SessionStart, *, is_mariadb: bool) -> str:
    """Return the one statement that puts a new or just reset session behind the fence."""
    names = f"SET NAMES {start.charset}" + (f" COLLATE {start.collation}" if start.collation else "")
    assignments = [f"{name} = {value}" for name, value in fence.session_settings(is_mariadb=is_mariadb).items()]
    if start.autocommit is not None:
        assignments.append(f"autocommit = {start.autocommit:d}")
    if start.time_zone is not None:
        assignments.append(f"time_zone = '{start.time_zone}'")
    if start.sql_mode is not None:
        assignments.append(f"sql_mode = '{start.sql_mode}'")
    return ", ".join([names, *assignments])


def _matches(field: str, text: object, pattern: str) -> None:
    if text is None and field != "charset":
        return
    if not isinstance(text, str) or not re.fullmatch(pattern, text):
        raise InvalidRequest(field, f"must match {pattern}")
