"""The state of one MySQL session as its client can know it. The drivers only report; nothing else may decide.

A driver reports each packet, each command and each end of the stream. This module alone answers three questions:

    is_ready       may the session be used for another command?
    may_be_kept    may it be kept for the next invocation?
    may_linger     after its end: may the server still work for it, so that its lease must be left to expire?

An exception may interrupt a driver between any two instructions. So each report that makes the state worse comes before
the action, and each that makes it better comes after: an interrupted session never looks in step.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_IN_TRANSACTION, _MORE_RESULTS, _CURSOR_OPEN = 0x0001, 0x0008, 0x0040
_LEFT_OPEN = _IN_TRANSACTION | _CURSOR_OPEN
_SHORTEST_ROW_FE = 9  # a packet that begins with FE and is as long as this is a row with a huge column
_LENGTH_BYTES: Mapping[int, int] = {0xFC: 3, 0xFD: 4, 0xFE: 9}


class Phase(enum.Enum):
    """What the client waits for, or what it may do."""

    CONNECTING = "no login was sent, or the server refused it: there is no session"
    LOGIN = "the login was sent, and neither accepted nor refused"
    IDLE = "every command is answered"
    UNANSWERED = "a command was sent, and nothing of its answer has come"
    COLUMNS = "the columns of a result are coming"
    ROWS = "the rows of a result are coming"
    MORE = "a result has ended, and the server is at work on the next one of the same command"
    FILE = "the server waits for the rows of LOAD DATA LOCAL"
    OUT_OF_STEP = "a packet came that nothing had asked for"

    __hash__ = object.__hash__  # an enumeration's own takes as long as all of the rest here


class Packet(enum.Enum):
    """The kinds of packets that matter here."""

    OK = enum.auto()
    ERROR = enum.auto()
    END = enum.auto()
    FILE = enum.auto()
    DATA = enum.auto()

    __hash__ = object.__hash__


class Stream(enum.Enum):
    """The state of the stream."""

    OPEN = enum.auto()
    GOODBYE = "the client has said goodbye; the server has yet to close"
    CUT = "the client left, or had to leave, without a goodbye"
    GONE = "the server is known to have ended the session"


class Reply(enum.Enum):
    """The answer to a goodbye: a reset and a quit, in one write."""

    NOTHING = enum.auto()
    RESET = "the reset was answered: whatever was open is rolled back"
    END = "the server ended the stream"


_ANSWER = {
    Packet.OK: Phase.IDLE,
    Packet.ERROR: Phase.IDLE,
    Packet.END: Phase.IDLE,
    Packet.FILE: Phase.FILE,
    Packet.DATA: Phase.COLUMNS,
}
_NEXT: Mapping[Phase, Mapping[Packet, Phase]] = {
    Phase.CONNECTING: dict.fromkeys(Packet, Phase.CONNECTING),  # the greeting
    Phase.LOGIN: {
        Packet.OK: Phase.IDLE,
        Packet.ERROR: Phase.CONNECTING,
        Packet.END: Phase.LOGIN,  # the server asks for another way to sign in
        Packet.DATA: Phase.LOGIN,
    },
    Phase.UNANSWERED: _ANSWER,
    Phase.MORE: _ANSWER,
    Phase.COLUMNS: {Packet.DATA: Phase.COLUMNS, Packet.END: Phase.ROWS, Packet.ERROR: Phase.IDLE},
    Phase.ROWS: {Packet.DATA: Phase.ROWS, Packet.END: Phase.IDLE, Packet.ERROR: Phase.IDLE},
    Phase.FILE: {Packet.OK: Phase.IDLE, Packet.ERROR: Phase.IDLE},
}
_A_ROW = 0x01  # the first byte of any packet that is no other


def _steps(phase: Phase) -> tuple[tuple[Packet, Phase], ...]:
    """Return, for each first byte of a packet, its kind and the phase after it."""
    kinds = {0xFE: Packet.END, 0xFF: Packet.ERROR}
    if phase not in (Phase.COLUMNS, Phase.ROWS):
        kinds |= {0x00: Packet.OK, 0xFB: Packet.FILE}
    expected, otherwise = _NEXT.get(phase, {}), Phase.OUT_OF_STEP
    steps = [(Packet.DATA, expected.get(Packet.DATA, otherwise))] * 256
    for first, kind in kinds.items():
        steps[first] = (kind, expected.get(kind, otherwise))
    return tuple(steps)


# The same rules by first byte: they are asked for each packet.
_STEPS = {phase: _steps(phase) for phase in Phase}
# For what is done with each packet: to look a member up in its enumeration takes longer than all of the rest.
_IDLE, _UNANSWERED = Phase.IDLE, Phase.UNANSWERED
_COLUMNS, _ROWS, _MORE = Phase.COLUMNS, Phase.ROWS, Phase.MORE
_OK, _ERROR, _END, _OPEN = Packet.OK, Packet.ERROR, Packet.END, Stream.OPEN
NO_PACKET_IS_DUE = frozenset({Phase.IDLE, Phase.OUT_OF_STEP})
_CAN_HEAR_GOODBYE = frozenset({Phase.IDLE, Phase.COLUMNS, Phase.ROWS, Phase.MORE})


class SessionState:
    """One session, from before its login to after its end.

    Args:
        on_work: called with True before the session gets work, and with False once it has none left; only at a change.

    Attributes:
        phase: what the client waits for.
        stream: the state of the stream.
        reading: whether a packet is being read, and has not come whole.
        flags: the server's status, as the last OK or end of a result showed it.
    """

    __slots__ = ("_may_hold_work", "_on_work", "_queued", "_reported_work", "flags", "phase", "reading", "stream")

    def __init__(self, on_work: Callable[..., None] | None = None) -> None:
        self._on_work = on_work
        self.phase = Phase.CONNECTING
        self.stream = Stream.OPEN
        self.flags = 0
        self.reading = False
        self._queued = 0
        self._may_hold_work = False
        self._reported_work = True  # the login is work

    # Reports of the drivers.

    def login_sent(self) -> None:
        """Report, before it is sent, the packet that may sign in."""
        if self.phase is Phase.CONNECTING:
            self.phase = Phase.LOGIN

    def login_given_up(self) -> None:
        """Report that the client does not send what the server waits for before it accepts the login."""
        if self.phase is Phase.LOGIN:
            self.phase = Phase.CONNECTING

    def commands_sent(self, count: int = 1) -> None:
        """Report, before they are sent, commands that go out in one write."""
        if self._on_work is not None and not self._reported_work:
            self._on_work(working=True)
            self._reported_work = True
        self._queued = count - 1
        self.phase = _UNANSWERED

    def read_begun(self) -> bool:
        """Report, before it is read, the next packet; return whether there is one to wait for.

        Until `received`, the session is out of step.
        """
        if self.reading or self.phase in NO_PACKET_IS_DUE:
            return False
        self.reading = True
        return True

    def received(self, packet: bytes) -> None:
        """Report a whole packet, without its header."""
        phase, first = self.phase, packet[0]
        if first < 0xFE and (phase is _ROWS or phase is _COLUMNS):  # noqa: PLR2004 - most packets change nothing
            self.reading = False
            return
        if first == 0xFE and len(packet) >= _SHORTEST_ROW_FE:  # noqa: PLR2004 - the protocol's own
            first = _A_ROW
        kind, after = _STEPS[phase][first]
        flags = self.flags = _flags(kind, packet) if after is _IDLE or after is _ROWS else 0
        # An error says nothing about the transaction: a procedure's writes before its failure may still be open.
        self._may_hold_work = kind is _ERROR or flags & _LEFT_OPEN != 0
        if after is _IDLE:
            if flags & _MORE_RESULTS:
                after = _MORE
            elif self._queued:
                self._queued -= 1
                after = _UNANSWERED
        self.phase = after
        self.reading = False
        if after is _IDLE and self._on_work is not None:
            self._report_no_work()

    def goodbye_sent(self) -> None:
        """Report, before it is sent, a reset and a quit."""
        if self.stream is Stream.OPEN:
            self.stream = Stream.GOODBYE

    def goodbye_answered(self, reply: Reply) -> None:
        """Report the answer to the goodbye within the time that the client waits for it."""
        if reply is Reply.END:
            self.server_closed()
        elif reply is Reply.RESET and self.phase is Phase.IDLE:  # else it was some other packet
            self._may_hold_work = False

    def cut_off(self) -> None:
        """Report, before it is done, that the client closes the stream, with or without a goodbye."""
        if self.stream is Stream.OPEN:
            self.stream = Stream.CUT

    def server_closed(self) -> None:
        """Report that the server has ended the stream.

        That is the session's end only if nothing was left to do. A server that is killing a session, or gives up on
        a client that does not read, closes the stream first; its statement and its rollback may take minutes more.
        """
        if self.stream is Stream.GOODBYE or (self.stream is Stream.OPEN and not self._is_working):
            self.stream = Stream.GONE

    def _report_no_work(self) -> None:
        if self._reported_work and not self._may_hold_work:
            self._reported_work = False  # first: a call that is interrupted may have reported nothing
            if self._on_work is not None:
                self._on_work(working=False)

    # Decisions.

    @property
    def is_ready(self) -> bool:
        """Whether the session may be used for another command."""
        return self.phase is _IDLE and not self.reading and self.stream is _OPEN

    @property
    def may_be_kept(self) -> bool:
        """Whether the next invocation may have the session: ready, and nothing is open in it."""
        return self.is_ready and not self._may_hold_work

    @property
    def may_send_goodbye(self) -> bool:
        """Whether the server would read a goodbye as one, and no other thread waits for an answer."""
        return self.phase in _CAN_HEAR_GOODBYE and not self.reading

    @property
    def may_linger(self) -> bool:
        """Whether the server may still work for a session that has ended.

        A server that was idle, and to which the goodbye was sent, is trusted even if it is slow to close. Under load,
        leases that are left to expire would take its capacity away.
        """
        if self.stream is Stream.GONE or self.phase is Phase.CONNECTING:
            return False
        return self.stream is not Stream.GOODBYE or self._is_working

    @property
    def has_ended(self) -> bool:
        """Whether the server is known to have ended the session."""
        return self.stream is Stream.GONE

    @property
    def _is_working(self) -> bool:
        """Whether the server may have something left to do."""
        if self.phase in (Phase.CONNECTING, Phase.LOGIN):
            return False
        return self.phase is not Phase.IDLE or self.reading or self._may_hold_work


def _flags(kind: Packet, packet: bytes) -> int:
    """Return the server's status flags, of an OK or the end of a result. PyMySQL reads those of OK packets only."""
    if kind is _END:
        at = 3
    elif kind is _OK:
        at = _after_number(packet, _after_number(packet, 1))
    else:
        return 0
    return int.from_bytes(packet[at : at + 2], "little")


def _after_number(packet: bytes, at: int) -> int:
    """Return where a number of variable length ends."""
    return at + _LENGTH_BYTES.get(packet[at], 1)
