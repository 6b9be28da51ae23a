"""How long does a database work for a client that waits, freezes, or is gone? Each kind of statement, each way.

python -m bench.lingering            MySQL with the event that the seed makes, MySQL without it, MariaDB, PostgreSQL

The statements would take 20 s; their limit is 1 s, W is 1 s. On MySQL they look at no socket by themselves. Times run
from the statement's start to its answer where the client waits, else until the server has freed the session's place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.postgresql import PrivatePostgreSQL
from tests.support.kinds import MariaDBKind, MySQLKind, PostgreSQLKind
from tests.support.lingering import WAYS, seconds, table

if TYPE_CHECKING:
    from tests.support.kinds import Kind

WATCHED_S: Final = 8.0


class MySQLWithoutEvent(MySQLKind):
    """MySQL where the seed could not make its event."""

    def limit_statements(self) -> None:
        """Make none."""


MEASURED: Final = (
    (MySQLKind, PrivateMySQL, ", with the event"),
    (MySQLWithoutEvent, PrivateMySQL, ", without it"),
    (MariaDBKind, PrivateMariaDB, ""),
    (PostgreSQLKind, PrivatePostgreSQL, ""),
)


def main() -> None:
    """Measure each server."""
    for make, start, what in MEASURED:
        with start() as server:
            kind: Kind = make(server)  # type: ignore[arg-type] # each line of MEASURED fits
            kind.prepare()
            with kind.administrator():
                lasted = {way: seconds(kind, way, watched_s=WATCHED_S) for way in WAYS}
            print(
                f"\n{server.LABEL} {server.version()}{what}\n",
                *table(lasted, watched_s=WATCHED_S),
                sep="\n",
                flush=True,
            )


if __name__ == "__main__":
    main()
