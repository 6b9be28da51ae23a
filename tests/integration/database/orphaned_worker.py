"""A worker in a process of its own that notes its leases, and waits to be killed."""

from __future__ import annotations

import json
import sys
import time

from connection_governor.client.lease_file import LeaseFile
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.fence import Fence
from connection_governor.database.target import Target
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import governor_on


def main() -> None:
    """Send a statement, and wait."""
    options = json.loads(sys.argv[1])
    store = MemoryStore()
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 4)
    governor = governor_on(
        store,
        Target(**options["target"]),
        credentials=Login(*options["credentials"]),
        lease_file=LeaseFile(options["folder"]),
        fence=Fence(),
        keep_seconds=0,
    )
    with governor.connection() as connection:
        sys.stdout.write(f"{connection.thread_id()}\n")
        sys.stdout.flush()
        connection.query(options["statement"])
        sys.stdout.write("answered\n")
        sys.stdout.flush()
        time.sleep(60)


if __name__ == "__main__":
    main()
