"""DynamoDB Local as the tests run it."""

from pathlib import Path
from urllib.parse import urlsplit

LISTENING = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and the same as an IPv6 socket names it


def listening_on(port: int | None) -> list[str]:
    """Return the addresses on which a process listens at a port, as the kernel writes them."""
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == LISTENING and int(number, 16) == port:
                found.append(address)
    return found


def test_it_listens_on_loopback_alone(dynamodb_local: str) -> None:
    """Any host on the network can write to the tables of a test run, and a firewall asks about Java."""
    (address,) = listening_on(urlsplit(dynamodb_local).port)
    assert address in LOOPBACK
