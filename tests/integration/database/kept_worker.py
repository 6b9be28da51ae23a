"""A worker in a process of its own that keeps its connection: one invocation for each line it reads."""

from __future__ import annotations

import json
import sys

from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.errors import GovernorError
from connection_governor.wiring import Environment
from connection_governor.wiring.table import dynamodb_store
from tests.support.database import ask, governor_on
from tests.support.invocation import Invocation


def main() -> None:
    """Serve until the input ends."""
    options = json.loads(sys.argv[1])
    store = dynamodb_store(Environment(options["environment"]))
    target = Target(**options["target"])
    governor = governor_on(
        store, target, credentials=Login(*options["credentials"]), keep_seconds=options["keep_seconds"]
    )
    for _ in sys.stdin:
        seen: dict[str, object] = {"lease_id": None, "connection_id": None, "error": None}
        try:
            with governor.connection(context=Invocation(), timeout=2.0) as connection:
                seen["connection_id"] = ask(connection, "SELECT CONNECTION_ID()")
                seen["lease_id"] = connection.lease.lease_id if connection.lease else None
        except GovernorError as error:
            seen["error"] = repr(error)
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
