"""A real HTTP server on loopback that misbehaves as told: each connection that it accepts follows the next script."""

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, Self


class Request(NamedTuple):
    """What a client sent, and on which connection (counted from 0)."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes


class Say(NamedTuple):
    """Read a request, then answer with these bytes."""

    answer: bytes


class Echo(NamedTuple):
    """Answer each request with its own body, for as long as the client asks."""


class Dribble(NamedTuple):
    """Read a request, then send one byte every few milliseconds until the client gives up."""


class Silence(NamedTuple):
    """Read a request and say nothing, until the server is stopped."""


class Interject(NamedTuple):
    """Say this without having been asked, once the test sets `ScriptedServer.interject`."""

    unasked: bytes


class HangUp(NamedTuple):
    """Close the connection: after reading a request if asked, and with RST if asked."""

    after_request: bool = False
    rudely: bool = False


Step = Say | Echo | Dribble | Silence | Interject | HangUp


def answer(
    body: bytes | Mapping[str, object] = b"{}", status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> Say:
    """Return a well-formed answer with a Content-Length."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(content)}",
        *[f"{k}: {v}" for k, v in (headers or {}).items()],
    ]
    return Say("\r\n".join(lines).encode() + b"\r\n\r\n" + content)


class ScriptedServer:
    """Accepts connections until closed; a connection without a script of its own follows the last one."""

    def __init__(self, *scripts: list[Step], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.accepted = 0
        self.hung_up = threading.Event()
        self.interject = threading.Event()
        self._scripts = scripts
        self._tls = tls
        self._stopped = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number, self.accepted = self.accepted, self.accepted + 1
            self._open.append(connection)
            self._start(lambda number=number, connection=connection: self._serve(number, connection))  # type: ignore[misc]

    def _serve(self, number: int, connection: socket.socket) -> None:
        with suppress(OSError, ConnectionError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection.makefile("rb") as stream:
                for step in self._scripts[min(number, len(self._scripts) - 1)]:
                    if not self._follow(step, number, connection, stream):  # type: ignore[arg-type]
                        break
                else:
                    stream.read(1)  # the script is over: stay until the client leaves
        connection.close()
        self.hung_up.set()

    def _follow(self, step: Step, number: int, connection: socket.socket, stream: "socket.SocketIO") -> bool:
        """Do this step; say whether the next one is to follow."""
        if isinstance(step, HangUp):
            if step.after_request:
                self._read(number, stream)
            if step.rudely:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if isinstance(step, Interject):
            self.interject.wait(30)
            connection.sendall(step.unasked)
            return True
        request = self._read(number, stream)
        while request is not None and isinstance(step, Echo):
            connection.sendall(answer(request.body).answer)
            request = self._read(number, stream)
        if request is not None:
            self._answer(step, connection)
        return request is not None

    def _answer(self, step: Step, connection: socket.socket) -> None:
        if isinstance(step, Say):
            connection.sendall(step.answer)
        elif isinstance(step, Dribble):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
            while not self._stopped.wait(0.005):
                connection.sendall(b"x")
        else:
            self._stopped.wait(30)

    def _read(self, number: int, stream: "socket.SocketIO") -> Request | None:
        line = stream.readline().decode().rstrip("\r\n")
        if not line:
            return None
        headers = {}
        while header := stream.readline().decode().rstrip("\r\n"):
            name, _, value = header.partition(": ")
            headers[name] = value
        request = Request(number, line, headers, stream.read(int(headers.get("content-length", "0"))))
        self.requests.append(request)
        return request
