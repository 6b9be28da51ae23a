"""How long each kind of database works for a holder that has vanished: one table for all, in build/lingering.md."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.database.fence import Fence
from harness.paths import BUILD
from tests.support.database import SLACK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.kinds import Kind

FENCE = Fence(idle_seconds=1, statement_seconds=1, write_seconds=1)
TABLE = BUILD / "lingering.md"


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


WAYS: dict[str, Callable[[Kind, Any], None]] = {
    "waits": waits,
    "is frozen": freezes,
    "is gone (FIN)": is_gone,
    "is gone (RST)": is_reset,
    "closes": closes,
}


def _replace_by_nothing(descriptors: list[int]) -> None:
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - its descriptor is what counts
        for descriptor in descriptors:
            os.dup2(nothing.fileno(), descriptor)


@pytest.fixture(scope="session")
def table() -> dict[tuple[str, str], dict[str, float]]:
    """Return the figures of this run, which each test writes out anew."""
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_a_statement_ends_within_its_limit_whatever_becomes_of_its_holder(
    way: str, kind: Kind, table: dict[tuple[str, str], dict[str, float]]
) -> None:
    """A statement that outlives its lease holds a connection that the budget has granted to another."""
    at_most = (FENCE.statement_bound_ms if way == "waits" else FENCE.margin_ms) / 1_000 + SLACK_S
    with contextlib.ExitStack() as sessions:
        opened = {}
        for nth, name in enumerate(kind.lingering):
            session = kind.opener().new_session(FENCE, f"governor:lingers{nth}:orders#0", None)
            sessions.callback(_close_quietly, session)
            session.connect()
            opened[name] = session
        numbers = {name: kind.number(session) for name, session in opened.items()}
        since = time.monotonic()
        for name, session in opened.items():
            kind.begin(session, kind.lingering[name])
        time.sleep(0.1)
        ended = [name for name, number in numbers.items() if not kind.working(number)]
        assert not ended, "they ended at once, and show nothing"
        with ThreadPoolExecutor(len(opened)) as holders:
            for session in opened.values():
                holders.submit(WAYS[way], kind, session)
            lasted = _seconds(kind, numbers, since, gone=way != "waits", at_most=at_most)
    for name, seconds in lasted.items():
        table.setdefault((name, kind.server.LABEL), {})[way] = seconds
    _write(table)
    late = {name: seconds for name, seconds in lasted.items() if seconds > at_most}
    assert not late, f"{kind.server.LABEL}, the holder {way}: the bound is {at_most} s"


def _seconds(kind: Kind, numbers: dict[str, int], since: float, *, gone: bool, at_most: float) -> dict[str, float]:
    """Return when each session was gone, or at no statement any more; those that never were count as 2 bounds."""
    look = kind.listed if gone else kind.working
    lasted: dict[str, float] = {}
    while len(lasted) < len(numbers) and time.monotonic() - since < 2 * at_most:
        for name in numbers.keys() - lasted.keys():
            if not look(numbers[name]):
                lasted[name] = time.monotonic() - since
        time.sleep(0.01)
    return {name: lasted.get(name, 2 * at_most) for name in numbers}


def _close_quietly(session: Any) -> None:  # noqa: ANN401 - either driver's
    with contextlib.suppress(OSError, session.driver_error):
        session.close()


def _write(table: dict[tuple[str, str], dict[str, float]]) -> None:
    bounds = f"E is {FENCE.statement_bound_ms / 1_000:g} s, W {FENCE.idle_seconds} s."
    lines = [f"Seconds until the server has ended it; {bounds}", ""]
    lines += [f"| statement | on | {' | '.join(WAYS)} |", f"| --- | --- |{' ---: |' * len(WAYS)}"]
    for (name, label), seconds in sorted(table.items()):
        figures = [f"{seconds[way]:.1f}" if way in seconds else "" for way in WAYS]
        lines.append(f"| {name} | {label} | {' | '.join(figures)} |")
    TABLE.write_text("\n".join(lines) + "\n")
