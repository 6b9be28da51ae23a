"""For how long is a part of the budget missing after a failover? Two real servers behind one address, the first silent.

python -m bench.failover                 with what the next opening proves
python -m bench.failover --unproven      each lease is left to expire, as if a new session proved nothing
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from connection_governor.core.lease import record_expiry_ms
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.fence import Fence
from connection_governor.database.server import DatabaseServer
from connection_governor.database.target import Target
from connection_governor.errors import NoConnectionsLeft
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.stack.mariadb import PrivateMariaDB
from tests.support.database import WORKER, governor_on
from tests.support.invocation import Invocation
from tests.support.moving_address import MovingAddress

if TYPE_CHECKING:
    from connection_governor.client.governor import Governor

BUDGET, ENVIRONMENTS = 16, 12  # three quarters: what keeping fills
KEEP_SECONDS = 60
INVOCATION_S = 10.0
LONGEST_S = 150.0


@dataclass(frozen=True)
class Shortage:
    """What was missing of the budget, and for how long."""

    missing: int
    seconds: float
    refused: int


def measured(first: PrivateMariaDB, second: PrivateMariaDB, authorities: Path) -> Shortage:
    """Keep sessions on the first server, silence it, move the address, and go on invoking every environment."""
    assert first.port is not None
    assert second.port is not None
    store = MemoryStore()
    Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", BUDGET)
    with MovingAddress(first.port) as address:
        target = Target("127.0.0.1", address.port, tls_ca=str(authorities))
        governors = [
            governor_on(store, target, fence=Fence(), keep_seconds=KEEP_SECONDS, holder=f"bench/{number}")
            for number in range(ENVIRONMENTS)
        ]
        for governor in governors:
            _use(governor)
        old = set(_held(store))
        assert first._server is not None  # noqa: SLF001 - as the tests' `stopped`
        os.kill(first._server.pid, signal.SIGSTOP)  # noqa: SLF001
        address.move(second.port)
        try:
            return _until_none_is_missing(store, governors, old)
        finally:
            os.kill(first._server.pid, signal.SIGCONT)  # noqa: SLF001
            for governor in governors:
                governor.close()


def _until_none_is_missing(store: MemoryStore, governors: list[Governor], old: set[str]) -> Shortage:
    since, refused = time.monotonic(), 0
    while old & set(_held(store)) and time.monotonic() - since < LONGEST_S:
        with ThreadPoolExecutor(len(governors)) as environments:  # each serves an invocation of its own
            refused += list(environments.map(_use, governors)).count(False)
        time.sleep(0.2)
    return Shortage(len(old), time.monotonic() - since, refused)


def _use(governor: Governor) -> bool:
    """Serve one invocation; return whether it got a connection."""
    try:
        with governor.connection(context=Invocation(INVOCATION_S), timeout=0.2) as connection:
            connection.query("SELECT 1")
    except NoConnectionsLeft:
        return False
    return True


def _held(store: MemoryStore) -> list[str]:
    """Return the leases that take a part of the budget: those that nobody may take over yet."""
    now_ms = SYSTEM_CLOCK.now_ms()
    shards = store._shards.values()  # noqa: SLF001 - a look, not a request
    return [key for shard in shards for key, record in shard.leases.items() if record_expiry_ms(record) >= now_ms]


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unproven", action="store_true")
    if parser.parse_args().unproven:
        DatabaseServer.proves_ended = lambda *_: False  # type: ignore[method-assign] # a new session proves nothing
    with (
        PrivateMariaDB(max_connections=40) as first,
        PrivateMariaDB(max_connections=40) as second,
        tempfile.TemporaryDirectory() as folder,
    ):
        authorities = Path(folder) / "authorities.pem"
        authorities.write_text(first.ca_path.read_text() + second.ca_path.read_text())
        for server in (first, second):
            server.create_user(WORKER.username, WORKER.password)
        shortage = measured(first, second, authorities)
    sys.stdout.write(
        f"{shortage.missing} of {BUDGET} missing for {shortage.seconds:.1f} s, {shortage.refused} refusals\n"
    )


if __name__ == "__main__":
    main()
