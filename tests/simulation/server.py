"""The simulated MySQL: the ground truth. It speaks the protocol with the production code's connection.

It knows what a server knows: sessions with a name, `wait_timeout` from the last command, limits of a statement, KILL,
`max_connections`, sockets that end or fall silent. It does not know leases; its watcher does.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from connection_governor.mysql.server import roles_query
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from tests.simulation.ledger import Tally
    from tests.support.hub import Event, Hub

DEFAULT_WAIT_S = 28_800
SIGN_IN_S = 10
QUICK_US = 200
_ASSIGNMENT = re.compile(r"(\w+) = ([\d.]+)")
_NAMES = re.compile(r"'(governor:[^']+)'")
_QUIT, _INIT_DB, _QUERY, _PING, _RESET = 0x01, 0x02, 0x03, 0x0E, 0x1F

GREETING = (
    b"\x0a10.11.6-MariaDB-sim\x00"
    + struct.pack("<I", 1)
    + b"abcdefgh\x00"
    + struct.pack("<H", 0xFFFF)
    + b"\x2d"
    + struct.pack("<HH", 2, 0x00FF | 0x0010 | 0x0008)
    + b"\x15"
    + bytes(10)
    + b"ijklmnopqrst\x00"
    + b"mysql_native_password\x00"
)
OK = bytes(7)
_END = b"\xfe\x00\x00\x00\x00"
_COLUMN = b"\x03def\x00\x00\x00\x01r\x00\x0c\x21\x00\x00\x00\x00\x00\xfd\x00\x00\x00\x00\x00"
_ROLES_QUERY = roles_query(is_mariadb=True)
NO_ROLE = (b"\x02", _COLUMN, _COLUMN, _END, b"\xfb\x010", _END)  # one row with NULL and 0
NO_SCHEMA = (b"\x01", _COLUMN, _END, b"\xfb", _END)
OK_IN_TRANSACTION = bytes(3) + b"\x01" + bytes(3)
LONGEST_ROLLBACK_S = 0.6
CLIENT_WAITS_US = 190 * MS  # `close.CLOSE_SECONDS`, less the way there and back


def error_packet(code: int, text: str) -> bytes:
    """Return how the server refuses."""
    return b"\xff" + struct.pack("<H", code) + b"#HY000" + text.encode()


@dataclass(frozen=True)
class Habits:
    """How likely what a server and its network sometimes do is.

    Attributes:
        slow_close: it hears a goodbye and takes longer than the client waits.
        silent_death: a holder that ends leaves no end of the stream behind.
    """

    slow_close: float = 0.0
    silent_death: float = 0.5


class Peer(Protocol):
    """The client's end of a session's stream."""

    def hear(self, data: bytes) -> None:
        """Receive bytes from the server."""

    def hear_end(self) -> None:
        """Note that the server has closed its side."""

    def is_stuck(self) -> bool:
        """Return whether no client reads what the server sends."""

    def belongs_to(self, process: object) -> bool:
        """Return whether this process has it."""


class Watcher(Protocol):
    """Learns what becomes of sessions."""

    def opened(self, session: ServerSession) -> None:
        """Note a session that has signed in."""

    def fenced(self, session: ServerSession) -> None:
        """Note that its first settings have been applied."""

    def ended(self, session: ServerSession) -> None:
        """Note that another client is about to end it."""

    def closed(self, session: ServerSession) -> None:
        """Note that it is gone."""


class Server:
    """A server that counts its sessions.

    Args:
        hub: the virtual time.
        random: how long it takes, and its habits.
        tally: counts refusals and ends.
        watcher: is told of every session.
        max_connections: one more is refused with 1040.
    """

    def __init__(
        self, hub: Hub, random: Random, tally: Tally, watcher: Watcher, habits: Habits, *, max_connections: int
    ) -> None:
        self.hub = hub
        self.random = random
        self.tally = tally
        self.watcher = watcher
        self.habits = habits
        self.max_connections = max_connections
        self.down_until_us = 0
        self.note: Callable[..., None] = _nothing
        self.sessions: dict[int, ServerSession] = {}
        self._made = 0

    def hop_us(self) -> int:
        """Return one way through the network."""
        return 100 + int(self.random.random() * 1_500)

    def accept(self, peer: Peer) -> ServerSession | None:
        """Accept a client; return its session, which counts from now on, or None if it is refused."""
        if len(self.sessions) >= self.max_connections:
            self.tally.outcomes["MySQL refused: 1040"] += 1
            peer.hear(_packet(0, error_packet(1040, "Too many connections")))
            peer.hear_end()
            return None
        self._made += 1
        session = self.sessions[self._made] = ServerSession(self, peer, self._made)
        peer.hear(_packet(0, GREETING))
        return session

    def kill(self, connection_id: int) -> bool:
        """Kill a connection; return whether there was one."""
        session = self.sessions.get(connection_id)
        if session is None:
            return False
        session.close("killed")
        return True

    def restart(self, down_us: int) -> None:
        """End every session, and accept no client for a while."""
        self.down_until_us = self.hub.now_us + down_us
        for session in list(self.sessions.values()):
            session.close("restart")


class ServerSession:
    """One session, from the accepted connection to its end.

    Attributes:
        name: the `program_name` of its handshake.
        ready: whether it was ever set up by its client.
        runaway: its last statement has passed every limit that its client set.
        signed_in_us: when it signed in.
        stray: its watcher counts it no more.
        leaving: it has heard a goodbye and goes later than its client waits for.
    """

    def __init__(self, server: Server, peer: Peer, connection_id: int) -> None:
        self.connection_id = connection_id
        self.name = ""
        self.ready = self.runaway = self.leaving = False
        self.is_open = True
        self.stray = False
        self.signed_in_us = self._heard_us = self._arrives_us = 0
        self._server = server
        self._hub = server.hub
        self._peer = peer
        self._commands: deque[bytes] = deque()
        self._signed_in = self._busy = self._abandoned = self._in_transaction = False
        self._timer: Event | None = None
        self._settings: dict[str, float] = {}
        self._set_timer(SIGN_IN_S, "no sign-in")

    def is_of(self, process: object) -> bool:
        """Return whether its client is this process."""
        return self._peer.belongs_to(process)

    def receive(self, data: bytes) -> None:
        """Receive bytes from the client: one or more whole packets."""
        while self.is_open and data:
            length = int.from_bytes(data[:3], "little")
            payload, data = data[4 : 4 + length], data[4 + length :]
            if self._signed_in:
                self._commands.append(payload)
                self._heard_us = self._hub.now_us
            else:
                self._sign_in(payload)
        if self.is_open and not self._busy:
            self._next()

    def client_gone(self) -> None:
        """See the client's end of the stream: at once if idle, else after the statement."""
        self._abandoned = True
        if self.is_open and not self._busy:
            self.close("client gone")

    def close(self, why: str) -> None:
        """End the session; its client will be notified."""
        if not self.is_open:
            return
        self.is_open = False
        self._cancel_timer()
        del self._server.sessions[self.connection_id]
        self._server.tally.outcomes[f"session ended: {why}"] += 1
        self._server.watcher.closed(self)
        self._server.note("mysql", self.connection_id, self.name, "ends:", why)
        self._hub.after(self._server.hop_us(), self._peer.hear_end)

    def _sign_in(self, handshake: bytes) -> None:
        at = handshake.find(b"program_name")
        if at >= 0:
            at += len(b"program_name")
            self.name = handshake[at + 1 : at + 1 + handshake[at]].decode()
        self._signed_in, self.signed_in_us = True, self._hub.now_us
        self._say(OK, first=2)
        self._set_timer(DEFAULT_WAIT_S, "wait_timeout")
        self._server.watcher.opened(self)
        self._server.note("mysql", self.connection_id, self.name, "signs in")

    def _next(self) -> None:
        """Begin the next command that has come."""
        if not self._commands:
            return
        self._cancel_timer()
        command = self._commands.popleft()
        if command[0] == _QUIT:
            self._leave()
            return
        self._busy = True
        self.runaway = self.runaway and command[0] != _QUERY
        sql = command[1:].decode() if command[0] == _QUERY else ""
        rollback_us = 0
        if command[0] == _PING:
            self._server.tally.outcomes["kept session pinged"] += 1
        if command[0] == _RESET:
            self._settings = {}
            rollback_us = self._roll_back_us()
        if sql.startswith("SET "):
            self._set(sql)
        duration_us, answer = self._duration(sql)
        packets = self._rows(sql) or (self._ended_other(sql) or answer,)
        duration_us += rollback_us
        self._server.note(
            "mysql", self.connection_id, self.name, sql[:12] or hex(command[0]), "for", duration_us // MS, "ms"
        )
        self._hub.after(duration_us, self._finish, packets, sql.startswith("STREAM"))

    def _rows(self, sql: str) -> Sequence[bytes]:
        """Return the answer to a question about roles, the schema, or the sessions of some leases; else nothing."""
        if sql == _ROLES_QUERY:
            return NO_ROLE
        if sql == "SELECT DATABASE()":
            return NO_SCHEMA
        if "session_account_connect_attrs" not in sql:
            return ()
        names = _NAMES.findall(sql)
        found = [str(number).encode() for number, one in self._server.sessions.items() if one.name in names]
        return (b"\x01", _COLUMN, _END, *(bytes([len(number)]) + number for number in found), _END)

    def _ended_other(self, sql: str) -> bytes | None:
        """Kill what a client names, and answer."""
        if not sql.startswith("KILL "):
            return None
        victim = self._server.sessions.get(int(sql.rsplit(maxsplit=1)[-1]))
        if victim is None:
            return error_packet(1094, "Unknown thread id")
        self._server.watcher.ended(victim)
        victim.close("killed by its taker")
        return OK

    def _set(self, sql: str) -> None:
        self._settings |= {name: float(value) for name, value in _ASSIGNMENT.findall(sql)}
        if not self.ready:
            self.ready = True
            self._server.watcher.fenced(self)

    def _duration(self, sql: str) -> tuple[int, bytes]:
        """Return how long a statement takes, and how it ends."""
        verb, _, seconds = sql.partition(" ")
        if verb not in ("WORK", "WRITE", "STREAM", "RUNAWAY"):
            return QUICK_US, self._ok()
        wanted_us = int(float(seconds) * SECOND)
        limit_us = int(self._settings.get("max_statement_time", 0) * SECOND) or wanted_us
        if verb == "RUNAWAY":
            self._hub.after(self._longest_us(limit_us), self._run_away)
            return wanted_us, self._ok()
        if wanted_us > limit_us:
            return limit_us, error_packet(1969, "max_statement_time")
        self._in_transaction = self._in_transaction or verb == "WRITE"
        return wanted_us, self._ok()

    def _ok(self) -> bytes:
        return OK_IN_TRANSACTION if self._in_transaction else OK

    def _roll_back_us(self) -> int:
        """Return how long the rollback of uncommitted writes takes."""
        if not self._in_transaction:
            return 0
        self._in_transaction = False
        self._server.tally.outcomes["transaction rolled back"] += 1
        return int(self._server.random.random() * LONGEST_ROLLBACK_S * SECOND)

    def _longest_us(self, limit_us: int) -> int:
        locks_us = int(2 * self._settings.get("lock_wait_timeout", 0) * SECOND)
        return max(limit_us, locks_us) + int(self._settings.get("net_write_timeout", 0) * SECOND)

    def _run_away(self) -> None:
        if self.is_open and self._busy:
            self.runaway = True
            self._server.tally.fault("statement ran away")

    def _finish(self, packets: Sequence[bytes], is_stream: bool) -> None:
        if not self.is_open:
            return
        if is_stream and self._peer.is_stuck():
            self._hub.after(int(self._settings.get("net_write_timeout", 60) * SECOND), self.close, "net_write_timeout")
            return
        self._busy = False
        self._say(*packets)
        if self._abandoned:
            self.close("client gone")
        elif self._commands:
            self._next()
        else:
            self._set_timer(self._settings.get("wait_timeout", DEFAULT_WAIT_S), "wait_timeout")

    def _leave(self) -> None:
        """Go, now and then slowly. After a long rollback the client may have stopped waiting before that."""
        slow = self._server.random.random() < self._server.habits.slow_close
        self._busy = True
        if slow:
            self._server.tally.fault("slow to close")
        longest_us = 2_000 * MS if slow else 20 * MS
        goes_us = self._hub.now_us + int(self._server.random.random() * longest_us) + QUICK_US
        self.leaving = slow or goes_us - self._heard_us > CLIENT_WAITS_US
        self._hub.after(goes_us - self._hub.now_us, self.close, "goodbye")

    def _say(self, *packets: bytes, first: int = 1) -> None:
        answer = b"".join(_packet(number, packet) for number, packet in enumerate(packets, first))
        self._arrives_us = max(self._arrives_us, self._hub.now_us + self._server.hop_us())  # a stream keeps its order
        self._hub.after(self._arrives_us - self._hub.now_us, self._peer.hear, answer)

    def _set_timer(self, seconds: float, why: str) -> None:
        self._cancel_timer()
        self._timer = self._hub.after(int(seconds * SECOND), self.close, why)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing(*_words: object) -> None:
    pass


def _packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload
