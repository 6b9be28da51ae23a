"""A function under SnapStart, in three copies: initialized once, with the managed runtime's own hooks around it.

A fork is what a restore is to a process: its memory, its descriptors and all that it believes, its number included.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from awslambdaric.lambda_runtime_hooks_runner import run_after_restore, run_before_snapshot

from connection_governor import Governor

COPIES = 3


class Context:
    """Lambda's, as far as it is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return a constant."""
        return 5_000


def say(**line: Any) -> None:  # noqa: ANN401 - whatever the test reads
    """Write one line to the test, in one piece."""
    os.write(1, json.dumps(line).encode() + b"\n")


def used(governor: Governor) -> dict[str, Any]:
    """Use the database once, with the connection kept: what it was."""
    with governor.connection(context=Context(), timeout=5.0) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        row = cursor.fetchone()
        assert row is not None
        assert connection.lease is not None
        return {"session": row[0], "lease": connection.lease.lease_id, "holder": connection.lease.holder}


def sockets() -> int:
    """Return how many this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def copy(governor: Governor) -> None:
    """Restore, serve one invocation, and change nothing until the test has looked."""
    run_after_restore()
    say(**used(governor))
    sys.stdin.read()
    governor.close()
    os._exit(0)


def main() -> None:
    """Initialize, take a snapshot, restore it."""
    governor = Governor.from_env()
    say(**used(governor), sockets=sockets())
    run_before_snapshot()
    say(sockets=sockets())
    sys.stdin.readline()
    number = os.getpid()
    os.getpid = lambda: number  # as after a restore
    for _ in range(COPIES):
        if os.fork() == 0:
            copy(governor)
    for _ in range(COPIES):
        os.wait()


if __name__ == "__main__":
    main()
