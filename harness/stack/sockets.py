"""Which process has a TCP connection, by the kernel's own tables."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_LOCAL, _INODE = 1, 9  # columns of /proc/net/tcp


def owners(ports: set[int], group: int) -> dict[int, int]:
    """Return the processes of a group whose sockets have these local ports."""
    sockets = _inodes(ports)
    found = {}
    for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
        with contextlib.suppress(OSError):  # the process has ended
            if os.getpgid(pid) == group:
                found.update({sockets[link]: pid for link in _links(pid) if link in sockets})
    return found


def _inodes(ports: set[int]) -> dict[str, int]:
    """Return the ports, by their sockets' names among a process's open files."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    named = ((f"socket:[{row[_INODE]}]", int(row[_LOCAL].rpartition(":")[2], 16)) for row in rows)
    return {name: port for name, port in named if port in ports}


def _links(pid: int) -> set[str]:
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            links.add(str(entry.readlink()))
    return links
