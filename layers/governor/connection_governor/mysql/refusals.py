"""What to do about a server's refusal, where its own message does not say it. Loaded only when an error has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pymysql.constants import ER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymysql.err import MySQLError

OFFLINE_MODE: Final = 3032  # PyMySQL has no name for it
_RUNNING_IN_READ_ONLY_MODE: Final = 1836
_READ_ONLY = "if this server only reads, it has lost the writer's role: the next opening may find the writer"
_ADVICE: Final[Mapping[int, str]] = {
    ER.HOST_IS_BLOCKED: (
        "all clients of this address are refused: an administrator must TRUNCATE performance_schema.host_cache, and "
        "should raise max_connect_errors"
    ),
    OFFLINE_MODE: "only administrators are admitted until one of them sets offline_mode to OFF",
    ER.OPTION_PREVENTS_STATEMENT: _READ_ONLY,
    _RUNNING_IN_READ_ONLY_MODE: _READ_ONLY,
}


def add_advice(error: MySQLError) -> None:
    """Add to the error's message what to do about it, where that is known. Its number stays."""
    code, *message = error.args
    if code in _ADVICE:
        error.args = (code, f"{' '.join(map(str, message))}; {_ADVICE[code]}")
