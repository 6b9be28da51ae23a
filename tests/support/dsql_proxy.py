"""A real PostgreSQL behind the rules of Aurora DSQL, as its documentation and public reports have them.

The proxy speaks TLS, takes a token in clear text, refuses settings in the start-up packet and the statements that DSQL
does not know, and new connections above a rate. What it lets through is carried out by the server. Each statement
that is refused is exchanged for one that raises the error, so that the server keeps the protocol's state.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

_TLS_WANTED = 80_877_103
_PROTOCOL = 196_608
_ALLOWED = {"user", "database", "application_name", "client_encoding"}
_REFUSED = re.compile(
    rb"\s*(SET\s+(?!TRANSACTION)|DISCARD|SAVEPOINT|LISTEN|PREPARE|CREATE\s+TEMP|TRUNCATE|SELECT\s+pg_terminate_backend)",
    re.IGNORECASE,
)
_SNAPSHOTS = rb"-c default_transaction_isolation=repeatable\ read"


class DsqlProxy:
    """Listens on loopback until closed.

    Args:
        folder: where the server's socket is.
        port: the server's.
        tls: how the proxy speaks TLS.
        accepts: whether a token is valid for a user.

    Attributes:
        tokens: what was sent as passwords.
        refused: the settings and statements that were refused.
        too_fast: how many of the next connections are refused for their rate.
    """

    def __init__(
        self, folder: Path, port: int, tls: ssl.SSLContext, accepts: Callable[[str, str], bool] = lambda *_: True
    ) -> None:
        self.tokens: list[str] = []
        self.refused: list[bytes] = []
        self.too_fast = 0
        self._path = str(folder / f".s.PGSQL.{port}")
        self._tls = tls
        self._accepts = accepts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(30)
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain:
            length, code = struct.unpack(">II", _exactly(plain, 8))
            if (length, code) != (8, _TLS_WANTED):
                return  # DSQL speaks nothing without TLS
            plain.sendall(b"S")
            with self._tls.wrap_socket(plain, server_side=True) as client:
                self._admit(client)

    def _admit(self, client: ssl.SSLSocket) -> None:
        (length,) = struct.unpack(">I", _exactly(client, 4))
        words = _exactly(client, length - 4)[4:].split(b"\0")
        given = {name.decode(): value for name, value in zip(words[::2], words[1::2], strict=False) if name}
        if self.too_fast > 0:
            self.too_fast -= 1
            client.sendall(_error(b"53400", b"Unable to accept connection, rate exceeded."))
            return
        for name in given.keys() - _ALLOWED:
            self.refused.append(name.encode())
            client.sendall(_error(b"0A000", b'setting configuration parameter "%b" not supported' % name.encode()))
            return
        client.sendall(b"R" + struct.pack(">II", 8, 3))  # the password, in clear text
        _, password = _message(client)
        self.tokens.append(password.rstrip(b"\0").decode())
        if not self._accepts(given["user"].decode(), self.tokens[-1]):
            client.sendall(_error(b"28000", b"unable to accept connection, access denied"))
            return
        self._join(client, given)

    def _join(self, client: ssl.SSLSocket, given: dict[str, bytes]) -> None:
        """Open a session of the server, and carry messages both ways."""
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self._path)
            words = [word for name, value in given.items() for word in (name.encode(), value)]
            body = struct.pack(">I", _PROTOCOL) + b"\0".join([*words, b"options", _SNAPSHOTS, b"", b""])
            server.sendall(struct.pack(">I", len(body) + 4) + body)
            while True:  # one thread for both ways: a TLS connection is not for two at once
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                if server in ready:
                    answer = server.recv(65_536)
                    if not answer:
                        return
                    client.sendall(answer)
                if client in ready:
                    kind, content = _message(client)
                    content = self._judged(kind, content)
                    server.sendall(kind + struct.pack(">I", len(content) + 4) + content)

    def _judged(self, kind: bytes, content: bytes) -> bytes:
        if kind == b"Q" and _REFUSED.match(content):
            return self._refusal(content) + b"\0"
        if kind == b"P":
            name, _, rest = content.partition(b"\0")
            query, _, types = rest.partition(b"\0")
            if name or _REFUSED.match(query):
                return b"\0".join([name, self._refusal(query), types])
        return content

    def _refusal(self, query: bytes) -> bytes:
        self.refused.append(query.rstrip(b"\0"))
        return b"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'not supported'; END $$"


def _error(sqlstate: bytes, message: bytes) -> bytes:
    fields = b"".join(b"%b%b\0" % field for field in ((b"S", b"FATAL"), (b"V", b"FATAL"), (b"C", sqlstate)))
    content = fields + b"M" + message + b"\0\0"
    return b"E" + struct.pack(">I", len(content) + 4) + content


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    kind = _exactly(source, 1)
    (length,) = struct.unpack(">I", _exactly(source, 4))
    return kind, _exactly(source, length - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = source.recv(count - len(found))
        if not part:
            raise ConnectionResetError
        found += part
    return found
