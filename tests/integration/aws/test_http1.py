"""What stays open when a connection cannot be made."""

import socket
from typing import TYPE_CHECKING, cast

import pytest

from connection_governor.aws.http1 import Address, Connection
from connection_governor.core.deadline import Deadline
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import ssl


def test_a_handshake_that_is_interrupted_leaves_no_socket_open() -> None:
    """An outage, or a signal in the wrong moment, ends in 'too many open files'."""
    opened = []

    class Interrupted:
        def wrap_socket(self, source: "socket.socket", **_: object) -> None:
            opened.append(source)
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address.of(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(KeyboardInterrupt):
            Connection(address, Deadline.after(5_000, SYSTEM_CLOCK), cast("ssl.SSLContext", Interrupted()))
    assert [source.fileno() for source in opened] == [-1]
