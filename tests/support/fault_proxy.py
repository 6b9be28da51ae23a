"""A TCP proxy before DynamoDB that refuses, delays and withholds, and drops answers to writes that were applied."""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from harness.stack.processes import LOOPBACK

if TYPE_CHECKING:
    from types import TracebackType

READ = 65_536
LOOK_S = 0.02  # how soon a changed fault reaches what waits
FOR_EVER_S = 3_600.0
_REFUSAL = b'{"__type":"com.amazonaws.dynamodb.v20120810#ThrottlingException","message":"slow down"}'
THROTTLED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to traffic from now on.

    Attributes:
        refuse: nothing gets through: connections are cut, and new ones are closed at once.
        request_s: least and most seconds by which a request is late. It arrives even if its sender has left by then.
        answer_s: the same of an answer: its request was carried out.
        drop: share of the answers that are thrown away, and their connection with them. The request was carried out.
        writes_only: spares everything but UpdateItem.
        throttle: share of the requests that are answered as throttled, and go no further.
    """

    refuse: bool = False
    request_s: tuple[float, float] = (0.0, 0.0)
    answer_s: tuple[float, float] = (0.0, 0.0)
    drop: float = 0.0
    writes_only: bool = False
    throttle: float = 0.0


HEALTHY = Fault()
REFUSED = Fault(refuse=True)
SILENT = Fault(request_s=(FOR_EVER_S, FOR_EVER_S))
WRITES_WITHHELD = Fault(request_s=(FOR_EVER_S, FOR_EVER_S), writes_only=True)
ANSWERS_WITHHELD = Fault(answer_s=(FOR_EVER_S, FOR_EVER_S), writes_only=True)


class FaultProxy:
    """A context manager: listens on loopback and passes everything on to a server, but for its faults.

    A fault that ends lets go of what it holds back: requests and answers that were withheld arrive, late.

    Args:
        server_url: the server behind, such as "http://127.0.0.1:8000".
        seed: what its draws start from.

    Attributes:
        url: what to give to clients.
        injected: how often each fault occurred: "refused", "late request", "late answer", "dropped answer".
    """

    def __init__(self, server_url: str, seed: int = 7) -> None:
        parts = urlsplit(server_url)
        assert parts.hostname is not None
        self._server = (parts.hostname, parts.port or 80)
        self._draw = random.Random(seed)
        self._fault = HEALTHY
        self._over = False
        self._threads: list[threading.Thread] = []
        self.injected: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Start to listen."""
        self._listener = socket.create_server((LOOPBACK, 0), backlog=128)
        self._listener.settimeout(LOOK_S)
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut all connections."""
        self._over = True
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def inject(self, fault: Fault) -> None:
        """Inject this fault from now on; `HEALTHY` ends it."""
        self._fault = fault

    def wait_for(self, kind: str, count: int = 1, *, timeout_s: float = 20.0) -> None:
        """Wait until a fault has occurred so often."""
        ends_at = time.monotonic() + timeout_s
        while self.injected[kind] < count:
            assert time.monotonic() < ends_at, f"no {kind} in {timeout_s:g} s: {self.injected}"
            time.sleep(0.002)

    def _start(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type] # a method
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over:
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._server) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes on until one side ends: a request's, then its answer's; a fault is drawn once for each."""
        operation, answering = b"", False
        while not self._over:
            if self._fault.refuse:
                self.injected["refused"] += 1
                return
            readable, _, _ = select.select([client, server], [], [], LOOK_S)
            if client in readable:
                sent = client.recv(READ)
                if not sent:
                    return
                if b"x-amz-target:" in sent.lower():
                    operation, answering = sent, False
                    if self._throttles(sent):
                        client.sendall(THROTTLED)
                        continue
                    self._hold_back("late request", self._spares(sent).request_s)
                server.sendall(sent)
            elif server in readable:
                answered = server.recv(READ)
                fault, answering, first = self._spares(operation), True, not answering
                if not answered or (first and self._loses(fault)):
                    return
                if first:
                    self._hold_back("late answer", fault.answer_s)
                client.sendall(answered)

    def _spares(self, request: bytes) -> Fault:
        fault = self._fault
        return HEALTHY if fault.writes_only and b".UpdateItem" not in request else fault

    def _loses(self, fault: Fault) -> bool:
        lost = self._draw.random() < fault.drop
        self.injected["dropped answer"] += lost
        return lost

    def _throttles(self, request: bytes) -> bool:
        throttled = self._draw.random() < self._spares(request).throttle
        self.injected["throttled"] += throttled
        return throttled

    def _hold_back(self, kind: str, between_s: tuple[float, float]) -> None:
        """Wait, but no longer than the fault lasts."""
        seconds, fault = self._draw.uniform(*between_s), self._fault
        if not seconds:
            return
        self.injected[kind] += 1
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0 and self._fault is fault and not self._over:
            time.sleep(min(left, LOOK_S))
