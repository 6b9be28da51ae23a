"""A MySQL server's side of signing in, on loopback: it asks for the password in the way that a test names.

It knows no SQL: each command is answered with OK. What the client sent is kept as it came.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

_TLS, _PLUGINS = 0x0800, 0x0008_0000
_CAPABILITIES = 0x00FF_F7FF & ~_TLS  # all that a MySQL 8 offers, without TLS
_OK = b"\x00\x00\x00\x02\x00\x00\x00"
_SALT = b"\x11" * 20
_USER_AT = 32


@dataclass(frozen=True, slots=True)
class Heard:
    """What one client sent while it signed in.

    Attributes:
        user: its name.
        first: the whole first packet of the login.
        replies: what it answered to each change of the plugin.
        over_tls: whether TLS had begun before the login.
    """

    user: bytes
    first: bytes
    over_tls: bool
    replies: list[bytes] = field(default_factory=list)


class ScriptedMySQL:
    """Asks for a plugin, notes the answer, and lets the client in, or denies it.

    Args:
        asks_for: the plugin of the change after the login; None: it is let in at once; b"": a change without a name.
        greets_with: the plugin that the greeting names.
        tls: how it speaks TLS; None: it offers none.
        denies: how many of the first clients it denies (1045).
        knows_plugins: whether it says that it can change the plugin at all.
    """

    def __init__(
        self,
        asks_for: bytes | None,
        *,
        greets_with: bytes = b"mysql_native_password",
        tls: ssl.SSLContext | None = None,
        denies: int = 0,
        knows_plugins: bool = True,
    ) -> None:
        self.heard: list[Heard] = []
        self._asks_for = asks_for
        self._greets_with = greets_with
        self._tls = tls
        self._denies = denies
        self._capabilities = _CAPABILITIES | (_TLS if tls else 0)
        if not knows_plugins:
            self._capabilities &= ~_PLUGINS
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with contextlib.suppress(OSError), connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        _send(connection, 0, self._greeting())
        number, first = _receive(connection)
        if self._tls is not None and len(first) == _USER_AT:  # the request for TLS
            connection = self._tls.wrap_socket(connection, server_side=True)
            number, first = _receive(connection)
        with connection:
            user = first[_USER_AT:].partition(b"\0")[0]
            heard = Heard(user, first, over_tls=hasattr(connection, "cipher"))
            self.heard.append(heard)
            if self._asks_for is not None:
                question = b"\x04Password: " if self._asks_for == b"dialog" else _SALT + b"\0"
                change = b"\xfe" + (self._asks_for + b"\0" + question if self._asks_for else b"")
                _send(connection, number + 1, change)
                number, reply = _receive(connection)
                heard.replies.append(reply)
            if len(self.heard) <= self._denies:
                _send(connection, number + 1, b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied")
                return
            _send(connection, number + 1, _OK)
            self._answer_commands(connection)

    def _answer_commands(self, connection: socket.socket) -> None:
        while True:
            number, command = _receive(connection)
            if command == b"\x01":  # goodbye
                return
            _send(connection, number + 1, _OK)

    def _greeting(self) -> bytes:
        low, high = self._capabilities & 0xFFFF, self._capabilities >> 16
        head = b"\x0a8.4.0-scripted\0" + struct.pack("<I", 7) + _SALT[:8] + b"\0"
        middle = struct.pack("<HBHHB", low, 255, 2, high, 21) + bytes(10)
        return head + middle + _SALT[8:] + b"\0" + self._greets_with + b"\0"


def _send(connection: socket.socket, number: int, content: bytes) -> None:
    connection.sendall(struct.pack("<I", len(content))[:3] + bytes([number & 0xFF]) + content)


def _receive(connection: socket.socket) -> tuple[int, bytes]:
    header = _exactly(connection, 4)
    return header[3], _exactly(connection, int.from_bytes(header[:3], "little"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found
