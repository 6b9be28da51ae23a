"""One HTTP/1.1 connection: open it, send a request, read the answer within a deadline. Knows nothing of AWS.

Written here because `http.client` parses answers' headers with the `email` package: two DynamoDB requests, signing
included, cost 0.38 ms of CPU over it and 0.22 over this. NOT bounded by a deadline: the name lookup, which the system
does. No redirects, no proxies, no compression (no request asks for it).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from connection_governor.core.values import dataclass
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from connection_governor.core.deadline import Deadline

_MOST_HEAD_BYTES = 64 * 1024
_MOST_BODY_BYTES = 8 * 1024 * 1024  # Lambda answers at most 6 MB, and the reads from DynamoDB are far below
_RECEIVE_BYTES = 64 * 1024
_HAS_NO_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswerError(ConnectionError):
    """The connection ended before the first byte of an answer."""


class GarbledAnswerError(ConnectionError):
    """The answer is not HTTP/1.1, breaks off, or is too large."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens: the parts of `http[s]://host[:port][/path]`."""

    tls: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Split a URL; raise `InvalidRequest` if it has another form."""
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        host, port = _split_port(authority)
        if scheme not in ("http", "https") or not host or not port.isdigit() or "@" in authority or " " in url:
            raise InvalidRequest("url", f"{url!r} must look like https://host[:port]")
        tls = scheme == "https"
        return cls(tls, host, int(port) or (443 if tls else 80), slash + path)

    @property
    def name(self) -> str | bytes:
        """The host as `socket` and `ssl` need it: of a text they load the codec of international names (1.5 ms)."""
        return self.host.encode() if self.host.isascii() else self.host

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Connection:
    """One open connection. After an exchange that failed, or left it not `reusable`, it can only be closed."""

    __slots__ = ("_socket", "reusable")

    def __init__(self, address: Address, deadline: Deadline, tls_context: ssl.SSLContext | None) -> None:
        self.reusable = True
        self._socket = _connect(address, deadline)
        try:
            # Requests are one write each: waiting to fill a packet could only delay them.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls_context is not None:
                self._socket.settimeout(_left(deadline))
                self._socket = tls_context.wrap_socket(self._socket, server_hostname=address.name)
        except BaseException:
            self._socket.close()
            raise

    def is_stale(self) -> bool:
        """Return whether the server has closed it, or sent something unasked, since the last answer. No round trip."""
        try:
            self._socket.settimeout(0)
            # Below the TLS layer, whose own recv takes no flags: any waiting byte, even an alert, ends the reuse.
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def exchange(self, request: bytes, deadline: Deadline) -> Answer:
        """Return a request's answer; raise `TimeoutError`, `NoAnswerError`, `GarbledAnswerError` or `OSError`."""
        self.reusable = False
        reader = _Reader(self._socket, deadline)
        try:
            reader.limit_wait()
            self._socket.sendall(request)
            reader.fill()
        except TimeoutError:
            raise
        except OSError as error:
            raise NoAnswerError("the connection ended before an answer") from error
        answer, self.reusable = reader.answer()
        return answer

    def close(self) -> None:
        """Close it without a word to the server."""
        self._socket.close()


class _Reader:
    """Reads one answer from a socket; `_position` is where the unread part of the buffer starts."""

    __slots__ = ("_buffer", "_deadline", "_left_ms", "_position", "_socket")

    def __init__(self, source: socket.socket, deadline: Deadline) -> None:
        self._socket = source
        self._deadline = deadline
        self._left_ms = 0
        self._buffer = b""
        self._position = 0

    def limit_wait(self) -> None:
        """Let the next wait for the socket end at the deadline; most waits begin in the millisecond of the last."""
        left_ms = self._deadline.left_ms()
        if left_ms != self._left_ms or left_ms <= 0:  # each change is a system call
            self._left_ms = left_ms
            self._socket.settimeout(_seconds(left_ms))

    def fill(self) -> None:
        """Wait for more bytes; raise `GarbledAnswerError` if none will come."""
        self.limit_wait()
        received = self._socket.recv(_RECEIVE_BYTES)
        if not received:
            raise GarbledAnswerError("the connection ended in the middle of an answer")
        self._buffer = self._buffer[self._position :] + received
        self._position = 0

    def answer(self) -> tuple[Answer, bool]:
        """Return the answer, and whether the connection can be used again."""
        version, status, headers = self._head()
        while 100 <= status < 200:  # noqa: PLR2004  # HTTP's interim answers: the real one follows
            version, status, headers = self._head()
        body, ends = self._body(status, headers)
        closing = not ends or version != "HTTP/1.1" or "close" in headers.get("connection", "").lower()
        return Answer(status, headers, body), not closing and self._position == len(self._buffer)

    def _head(self) -> tuple[str, int, dict[str, str]]:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, status = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not status[:3].isdigit():
            raise GarbledAnswerError("the answer is not HTTP/1.1")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return version, int(status[:3]), headers

    def _body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        if status in _HAS_NO_BODY:
            return b"", True
        if "transfer-encoding" in headers:
            return self._chunks(), True
        length = headers.get("content-length")
        if length is None:
            return self._rest(), False
        return self._exactly(_size(length.encode(), 10)), True

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := _size(self._until(b"\r\n").partition(b";")[0].strip(), 16):
            body += self._exactly(_accepted(len(body) + size) - len(body))
            if self._exactly(2) != b"\r\n":
                raise GarbledAnswerError("a chunk does not have its announced length")
        while self._until(b"\r\n"):
            pass  # trailers: no answer that is asked for here uses them
        return bytes(body)

    def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark, self._position)) < 0:
            if len(self._buffer) - self._position > _MOST_HEAD_BYTES:
                raise GarbledAnswerError("the answer's header is too long")
            self.fill()
        found = self._buffer[self._position : end]
        self._position = end + len(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        if len(self._buffer) - self._position < count:
            self._gather(count)
        start = self._position
        self._position += count
        return self._buffer[start : self._position]

    def _gather(self, count: int) -> None:
        """Fill in one growing buffer: adding up immutable pieces would copy a long body again and again."""
        gathered = bytearray(self._take())
        while len(gathered) < count:
            self.fill()
            gathered += self._take()
        self._buffer = bytes(gathered)

    def _take(self) -> bytes:
        taken = self._buffer[self._position :]
        self._buffer, self._position = b"", 0
        return taken

    def _rest(self) -> bytes:
        gathered = bytearray(self._take())
        self.limit_wait()
        while received := self._socket.recv(_RECEIVE_BYTES):
            gathered += received
            _accepted(len(gathered))
            self.limit_wait()
        return bytes(gathered)


def request_bytes(method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a request as one piece, to leave in one packet; raise `InvalidRequest` if a value holds a line break."""
    return head_bytes(method, target, headers) + b"\r\n" + body


def head_bytes(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Return a request's head without its last, empty line; raise `InvalidRequest` if a value holds a line break."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise InvalidRequest("headers", "a value holds a line break")
    return head.encode("latin-1") + b"\r\n"


def _split_port(authority: str) -> tuple[str, str]:
    """Return host and port ("0": the scheme's default); an IPv6 address stands in brackets."""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, port.removeprefix(":") or "0"
    host, _, port = authority.partition(":")
    return host, port or "0"


def _connect(address: Address, deadline: Deadline) -> socket.socket:
    """Try the name's addresses in turn, all within one deadline (`socket.create_connection` gives it to each)."""
    failure: OSError = OSError(f"{address.host} has no address")
    found = socket.getaddrinfo(address.name, address.port, type=socket.SOCK_STREAM)
    for tried, (family, kind, protocol, _, where) in enumerate(found, start=1):
        try:
            # Half of the time left, but for the last: a silent address must not use up the others' time.
            share = 1.0 if tried == len(found) else 0.5
            return _opened(socket.socket(family, kind, protocol), where, _left(deadline) * share)
        except OSError as error:
            failure = error
    raise failure


def _opened(opened: socket.socket, where: Any, timeout_s: float) -> socket.socket:  # noqa: ANN401  # as getaddrinfo types it
    try:
        opened.settimeout(timeout_s)
        opened.connect(where)
    except BaseException:
        opened.close()
        raise
    return opened


def _left(deadline: Deadline) -> float:
    return _seconds(deadline.left_ms())


def _seconds(left_ms: int) -> float:
    if left_ms <= 0:
        raise TimeoutError("the time for this request is over")
    return left_ms / 1_000


def _size(text: bytes, base: int) -> int:
    try:
        size = int(text, base) if text.isalnum() else -1
    except ValueError as error:
        raise GarbledAnswerError("the answer's length is not a number") from error
    return _accepted(size)


def _accepted(size: int) -> int:
    if not 0 <= size <= _MOST_BODY_BYTES:
        raise GarbledAnswerError(f"an answer of {size} bytes is not accepted")
    return size
