"""One TCP address that leads to one server now and to another one later, as a database's name does in a failover."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = "127.0.0.1"
_LOOK_S = 0.02


class MovingAddress:
    """A context manager: passes every connection on to the server that it led to when it was made.

    A connection stays with its server after a move, and hears nothing where that server is silent.

    Args:
        port: the server's port on loopback.

    Attributes:
        port: where clients connect.
        taken: how many connections were taken.
        turns: how often a client spoke first or after its server: the round trips of what it does.
    """

    def __init__(self, port: int) -> None:
        self._leads_to = port
        self._answers_at_s = 0.0
        self._muted = 0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, 0), backlog=64)
        self._listener.settimeout(_LOOK_S)
        self.port: int = self._listener.getsockname()[1]
        self.taken = 0
        self.turns = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def move(self, port: int) -> None:
        """Lead new connections to another server from now on."""
        self._leads_to = port

    def mute(self) -> None:
        """Pass nothing more on for the connections of until now, not even their end: their server's machine is gone."""
        self._muted = self.taken

    def sleep(self, seconds: float) -> None:
        """Take connections, and pass nothing on for so long: a paused database that resumes."""
        self._answers_at_s = time.monotonic() + seconds

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.taken += 1
                self._start(self._serve, client, self._leads_to, self.taken)

    def _serve(self, client: socket.socket, port: int, number: int) -> None:
        with client, suppress(OSError):
            while (left_s := self._answers_at_s - time.monotonic()) > 0:
                if self._over.wait(min(left_s, _LOOK_S)):
                    return
            with socket.create_connection((LOOPBACK, port)) as server:
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass_on(client, server, number)

    def _pass_on(self, client: socket.socket, server: socket.socket, number: int) -> None:
        with selectors.DefaultSelector() as both:
            both.register(client, selectors.EVENT_READ, server)
            both.register(server, selectors.EVENT_READ, client)
            spoke: object = server
            while not self._over.is_set():
                if number <= self._muted:
                    self._over.wait()
                    return
                for ready, _ in both.select(_LOOK_S):
                    data = ready.fileobj.recv(65_536)  # type: ignore[union-attr] # a socket
                    if not data:
                        return
                    self.turns += ready.fileobj is client and spoke is server
                    spoke = ready.fileobj
                    ready.data.sendall(data)
