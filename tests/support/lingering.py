"""How long a database works for a holder that waits, freezes, closes, or is gone: each kind of statement, each way."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from connection_governor.database.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.kinds import Kind

FENCE: Final = Fence(idle_seconds=1, statement_seconds=1, write_seconds=1, lock_seconds=1)


def waits(kind: Kind, session: Any) -> None:  # noqa: ANN401 - either driver's
    """Let the holder read the answer."""
    kind.finish(session)


def freezes(_kind: Kind, _session: Any) -> None:  # noqa: ANN401 - as above
    """Let the holder do nothing more: its machine still acknowledges what the server sends."""


def is_gone(kind: Kind, session: Any) -> None:  # noqa: ANN401 - as above
    """Let the holder's process end: its kernel closes the connection in order (FIN)."""
    _replace_by_nothing(kind.descriptors(session))


def is_reset(kind: Kind, session: Any) -> None:  # noqa: ANN401 - as above
    """Let the holder's machine drop the connection (RST)."""
    descriptors = kind.descriptors(session)
    with socket.socket(fileno=os.dup(descriptors[0])) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _replace_by_nothing(descriptors)


def closes(_kind: Kind, session: Any) -> None:  # noqa: ANN401 - as above
    """Let the holder close the session, as the end of a body does."""
    session.close()


WAYS: Final[Mapping[str, Callable[[Kind, Any], None]]] = {
    "waits": waits,
    "frozen": freezes,
    "FIN": is_gone,
    "RST": is_reset,
    "close()": closes,
}


def seconds(kind: Kind, way: str, *, watched_s: float) -> dict[str, float]:
    """Return how long each kind of statement was at work where the holder waits, else how long its session was there.

    All statements run at once, each on rows of its own. What is still there after `watched_s` counts as infinite.
    """
    kind.clear()
    with contextlib.ExitStack() as until_end:
        until_end.enter_context(kind.locked_row())
        sessions = {name: _opened(kind, nth, until_end) for nth, name in enumerate(kind.lingering)}
        numbers = {name: kind.number(session) for name, session in sessions.items()}
        since = time.monotonic()
        for name, session in sessions.items():
            kind.begin(session, kind.lingering[name])
        time.sleep(0.1)
        ended = [name for name, number in numbers.items() if not kind.working(number)]
        assert not ended, f"{kind.server.LABEL}: they ended at once, and show nothing"
        holders = until_end.enter_context(ThreadPoolExecutor(len(sessions)))
        for session in sessions.values():
            holders.submit(WAYS[way], kind, session)
        lasted = _watched(kind.working if way == "waits" else kind.listed, numbers, since, watched_s)
        kind.end_all(numbers.values())
        return lasted


def table(lasted: Mapping[str, Mapping[str, float]], *, watched_s: float) -> list[str]:
    """Return one server's figures, by way and statement, as the lines of a table."""
    lines = [f"| statement | {' | '.join(lasted)} |", "| --- |" + " --- |" * len(lasted)]
    for name in next(iter(lasted.values())):
        figures = [f"{one[name]:.1f}" if one[name] < watched_s else f"> {watched_s:g}" for one in lasted.values()]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return lines


def _opened(kind: Kind, nth: int, until_end: contextlib.ExitStack) -> Any:  # noqa: ANN401 - either driver's
    session = kind.opener().new_session(FENCE, f"governor:lingers{nth}:orders#0", None)
    until_end.callback(_close_quietly, session)
    session.connect()
    return session


def _close_quietly(session: Any) -> None:  # noqa: ANN401 - either driver's
    with contextlib.suppress(OSError, session.driver_error):
        session.close()


def _watched(
    look: Callable[[int], bool], numbers: Mapping[str, int], since: float, watched_s: float
) -> dict[str, float]:
    lasted: dict[str, float] = {}
    while len(lasted) < len(numbers) and time.monotonic() - since < watched_s:
        for name in numbers.keys() - lasted.keys():
            if not look(numbers[name]):
                lasted[name] = time.monotonic() - since
        time.sleep(0.02)
    return {name: lasted.get(name, float("inf")) for name in numbers}


def _replace_by_nothing(descriptors: list[int]) -> None:
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - its descriptor is what counts
        for descriptor in descriptors:
            os.dup2(nothing.fileno(), descriptor)
