"""What a session reads from its socket: whole packets, within one deadline for each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from connection_governor.mysql import stream
from connection_governor.mysql.stream import AnswerReader

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable


class ScriptedSocket:
    """Returns these parts, each after so many milliseconds; its time moves only by that."""

    def __init__(self, parts: Iterable[bytes], each_ms: int = 0) -> None:
        self.parts = iter(parts)
        self.each_ms = each_ms
        self.now_ms = 0
        self.timeout: float | None = 30.0
        self.limits: list[float | None] = []

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def recv(self, _count: int) -> bytes:
        self.limits.append(self.timeout)
        self.now_ms += self.each_ms
        return next(self.parts, b"")


def reader_of(source: ScriptedSocket, monkeypatch: pytest.MonkeyPatch) -> AnswerReader:
    """Return a reader by the socket's own time."""
    monkeypatch.setattr(stream, "_monotonic_ms", lambda: source.now_ms)
    return AnswerReader(cast("socket.socket", source))


def test_bytes_that_trickle_in_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a byte now and then would hold a statement far beyond its limit, and so the lease."""
    source = ScriptedSocket([b"x"] * 10, each_ms=400)
    reader = reader_of(source, monkeypatch)
    reader.allow(1.0)
    with pytest.raises(TimeoutError):
        reader.fill(10)
    assert source.limits == pytest.approx([1.0, 0.6, 0.2])


def test_the_time_of_sending_a_long_command_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long statement over a slow network would have its time twice: once to be sent, once to be answered."""
    source = ScriptedSocket([b"answer"])
    reader = reader_of(source, monkeypatch)
    reader.allow(1.0)
    source.now_ms = 700
    reader.sent_slowly()
    reader.fill(1)
    assert source.limits == pytest.approx([0.3])


def test_bytes_that_were_not_taken_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet whose end comes later would lose its beginning, and the session its place in the stream."""
    reader = reader_of(ScriptedSocket([b"abc", b"def", b"g"]), monkeypatch)
    assert reader.take(2) == b"ab"
    assert reader.take(3) == b"cde"
    assert reader.take(2) == b"fg"


def test_the_end_of_the_stream_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as a packet of no bytes, it would be taken for an answer."""
    reader = reader_of(ScriptedSocket([b"ab"]), monkeypatch)
    with pytest.raises(ConnectionError):
        reader.fill(3)


def test_an_opening_sets_the_limits_of_its_steps_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a step would be replaced by that of an answer, while the server is silent after a failover."""
    source = ScriptedSocket([b"greeting"])
    reader_of(source, monkeypatch).fill(4)
    assert source.limits == [30.0]


def test_each_row_of_a_streamed_result_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that works on each row would lose the rest of its result."""
    source = ScriptedSocket([b"row", b"row"], each_ms=900)
    reader = reader_of(source, monkeypatch)
    reader.allow(1.0)
    reader.allow_each(lambda: 1.0)
    reader.take(3)
    reader.take(3)
    assert source.limits == [1.0, 1.0]
