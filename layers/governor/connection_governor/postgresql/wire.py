"""The stream to a PostgreSQL server, beside libpq: close so that the server ends the session, and see that it has.

libpq closes its socket as soon as it has sent its goodbye. So a second descriptor of the same socket is held from the
opening on, and it is read until the server has closed the stream.
"""

from __future__ import annotations

import contextlib
import os
import socket

from connection_governor.core.deadline import Deadline
from connection_governor.system import SYSTEM_CLOCK

CLOSE_SECONDS = 0.2


def second_descriptor(descriptor: int) -> socket.socket:
    """Return another descriptor of libpq's socket, as a socket."""
    return socket.socket(fileno=os.dup(descriptor))


def is_connected(wire: socket.socket) -> bool:
    """Return whether the socket has reached its peer; asked without taking the error that libpq will ask for."""
    try:
        wire.getpeername()
    except OSError:
        return False
    return True


def peer_closes(wire: socket.socket) -> bool:
    """Say that nothing more will come, and return whether the server ends the stream within `CLOSE_SECONDS`.

    What still comes is thrown away. A reset is also an end: a backend that exits with bytes unread sends one.
    """
    try:
        with contextlib.suppress(OSError):  # the peer may have closed already
            wire.shutdown(socket.SHUT_WR)
        deadline = Deadline.after(round(CLOSE_SECONDS * 1_000), SYSTEM_CLOCK)
        while (left_ms := deadline.left_ms()) > 0:
            wire.settimeout(left_ms / 1_000)
            if not wire.recv(65_536):
                return True
    except ConnectionResetError:
        return True
    except OSError:
        return False
    return False


def detach_copy(descriptor: int) -> None:
    """Put the null device in the place of a forked child's descriptor, so that nothing reaches its parent's server."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(null, descriptor, inheritable=False)
        finally:
            os.close(null)
