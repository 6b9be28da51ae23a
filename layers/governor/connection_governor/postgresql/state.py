"""The state of one PostgreSQL session as its client can know it. The sessions only report; nothing else may decide.

libpq keeps the protocol's state: whether a command is being answered, and whether a transaction is open. It cannot be
interrupted halfway, since it is compiled code. What it does not know is decided here:

    is_ready       may the session be used for another command, or be reset?
    may_linger     after its end: may the server still have it, so that its lease must be left to expire?

A PostgreSQL backend leaves its stream open until its process exits, which is after its slot is free. So the end of the
stream proves the end of the session, whatever it was doing.
"""

from __future__ import annotations

import enum

from psycopg.pq import PipelineStatus, TransactionStatus

_AT_REST = frozenset({TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR})


class Phase(enum.Enum):
    """What became of the login."""

    CONNECTING = "no login was sent: there is no session"
    LOGIN = "the login was sent, and neither accepted nor refused"
    REFUSED = "the server refused the login, and ends its session by itself"
    OPEN = "the server accepted the login"


class Stream(enum.Enum):
    """The state of the stream."""

    OPEN = enum.auto()
    GOODBYE = "the client said goodbye while nothing was open; the server has yet to close"
    CUT = "the client left while something was open, or without a goodbye"
    GONE = "the server has ended the stream"


class SessionState:
    """One session, from before its login to after its end.

    Attributes:
        phase: what became of the login.
        stream: the state of the stream.
    """

    __slots__ = ("phase", "stream")

    def __init__(self) -> None:
        self.phase = Phase.CONNECTING
        self.stream = Stream.OPEN

    def login_sent(self) -> None:
        """Report, before it is sent, the packet that makes the server begin a session."""
        self.phase = Phase.LOGIN

    def refused(self) -> None:
        """Report that the server refused the login."""
        if self.phase is Phase.LOGIN:
            self.phase = Phase.REFUSED

    def accepted(self) -> None:
        """Report that the session is open."""
        self.phase = Phase.OPEN

    def leaving(self, transaction: TransactionStatus) -> None:
        """Report, before it is done, that the client closes the stream, and what libpq knows of the transaction."""
        if self.stream is Stream.OPEN:
            self.stream = Stream.GOODBYE if transaction == TransactionStatus.IDLE else Stream.CUT

    def server_closed(self) -> None:
        """Report that the server has ended the stream."""
        self.stream = Stream.GONE

    def is_ready(self, transaction: TransactionStatus, pipeline: PipelineStatus) -> bool:
        """Return whether the session may be used for another command, or be reset."""
        usable = self.phase is Phase.OPEN and self.stream is Stream.OPEN
        return usable and transaction in _AT_REST and pipeline == PipelineStatus.OFF

    @property
    def may_linger(self) -> bool:
        """Whether the server may still have the session that has ended.

        A server that was idle, or that refused the login, is trusted even if it is slow to close.
        """
        if self.stream in (Stream.GONE, Stream.GOODBYE):
            return False
        return self.phase in (Phase.LOGIN, Phase.OPEN)

    @property
    def has_ended(self) -> bool:
        """Whether the server is known to have ended the session."""
        return self.stream is Stream.GONE
