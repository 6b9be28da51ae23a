"""Where drills happen, and their verdict: what a fault may never do, and how long the full budget may take to be back.

The ground: DynamoDB Local behind a fault proxy, a MariaDB that refuses one connection too many by itself, a secret in
the local AWS's Secrets Manager, and no janitor.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymysql import err

from connection_governor import GovernorUnavailable, LeaseLost, NoConnectionsLeft
from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.demo.observer import now_ms
from harness.demo.recording import Hold
from harness.demo.summary import longest_lease_ms, peak_held
from harness.load_function.load.tally import TOO_MANY_CONNECTIONS
from harness.paths import BUILD
from tests.stack.crew import Refused
from tests.stack.orders import FENCE
from tests.support.database import governor_on
from tests.support.fault_proxy import FaultProxy
from tests.support.invocation import Invocation
from tests.support.worlds import endpoint_of, environment_of, is_whole, new_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from connection_governor import Governor
    from harness.stack.local_aws import LocalAws
    from harness.stack.mysql_family import MySQLFamilyServer
    from tests.stack.crew import Crew

BUDGET = 6
DATABASE = "orders"
SCHEMA = "shop"
CREDENTIALS = Login("drilled", "drilled")
SKEW_MS = 1_000
DETECTION_MS = 1_000  # what may pass beyond lease + skew
TRY_EACH_S = 0.1
LOST_CONNECTION = (2003, 2006, 2013)  # to a server that has just come back
ROWS = BUILD / "faults.md"


@dataclass(frozen=True)
class Ground:
    """One drill's own table, with a budget of six and nothing in use; the servers are shared.

    Attributes:
        database, proxy: the servers that the faults hit.
        variables: a worker's environment; its DynamoDB is the proxy.
        store: the table, reached without faults.
    """

    database: MySQLFamilyServer
    proxy: FaultProxy
    variables: dict[str, str]
    store: DynamoDBStore

    @property
    def operations(self) -> Operations:
        """The operator's verbs."""
        return Operations(self.store, SYSTEM_CLOCK, SYSTEM_ENTROPY)

    def governor(self) -> Governor:
        """Return a worker's governor that remembers nothing, and that the faults do not hit."""
        database = self.database
        assert database.port is not None
        target = Target(database.host, database.port, SCHEMA, tls_ca=str(database.ca_path))
        return governor_on(self.store, target, credentials=CREDENTIALS, fence=FENCE, keep_seconds=0)


@contextmanager
def ground_on(dynamodb_url: str, database: MySQLFamilyServer, variables: dict[str, str]) -> Iterator[Ground]:
    """Yield a new table; `variables` say where the database is."""
    with FaultProxy(dynamodb_url) as proxy, closing(endpoint_of(dynamodb_url)) as endpoint:
        table = new_table(endpoint)
        store = DynamoDBStore(DynamoDBCaller(endpoint), table)
        Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget(DATABASE, BUDGET, shards=1, skew_ms=SKEW_MS)
        worker_variables = dict(environment_of(proxy.url, table, **variables).variables)
        yield Ground(database, proxy, worker_variables, store)


def variables_of(database: MySQLFamilyServer, aws: LocalAws) -> dict[str, str]:
    """Make the workers' MySQL user, with the budget for its limit, and the secret; return a worker's variables."""
    database.execute(f"CREATE DATABASE IF NOT EXISTS {SCHEMA}")
    user, password = CREDENTIALS.username, CREDENTIALS.password
    database.create_user(user, password, max_user_connections=BUDGET, grants=[f"ALL ON {SCHEMA}.*"])
    secret = json.dumps({"username": user, "password": password})
    made = aws.client("secretsmanager").create_secret(Name="drilled-worker", SecretString=secret)
    return {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": aws.endpoint_url,
        "GOVERNOR_TRANSPORT": "direct",
        "GOVERNOR_DATABASE": DATABASE,
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_NAME": SCHEMA,
        "DB_SECRET_ARN": made["ARN"],
        "DB_TLS_CA": str(database.ca_path),
    }


def whole_budget(ground: Ground, probes: list[Hold], refused: list[Refused]) -> bool:
    """Open as many governed connections as the budget has, all at once, and close them; return whether that worked.

    Args:
        ground: where.
        probes: gets what was held.
        refused: gets what was lent and refused by MySQL.
    """
    governor = ground.governor()
    opened: list[tuple[int, int]] = []
    with ExitStack() as connections:
        try:
            for _ in range(BUDGET):
                connection = governor.connect(timeout=0, context=Invocation(1.5))
                connections.callback(connection.close)
                assert connection.lease is not None
                opened.append((connection.acquired_ms, connection.lease.expires_at_ms))
        except (NoConnectionsLeft, GovernorUnavailable, LeaseLost):
            return False
        except err.OperationalError as error:
            if error.args[0] in TOO_MANY_CONNECTIONS:
                refused.append(Refused(error.args[0], now_ms()))
            elif error.args[0] not in LOST_CONNECTION:
                raise
            return False
        finally:
            closing_ms = now_ms()
            probes += [Hold(from_ms, closing_ms, end_ms, crashed=False) for from_ms, end_ms in opened]
    return True


@dataclass
class Verdict:
    """What came of a drill: the workers' holds, and those of the probes that looked for the full budget."""

    name: str
    what_happened: str
    holds: list[Hold]
    probes: list[Hold]
    lease_ms: int
    back_after_ms: int | None
    refused_by_mysql: list[Refused] = field(default_factory=list)
    skew_ms: int = SKEW_MS
    budget: int = BUDGET
    in_use_after: int = 0

    @property
    def bound_ms(self) -> int:
        """Within how many milliseconds the full budget must be back."""
        return self.lease_ms + self.skew_ms + DETECTION_MS

    @property
    def over_grants(self) -> int:
        """How far the holds that workers and probes reported went above the budget."""
        return max(0, peak_held(self.holds + self.probes) - self.budget)

    def insist(self) -> None:
        """Check the promises, and write the drill's row."""
        self._write()
        assert self.holds, "no worker held a connection: the drill shows nothing"
        assert self.over_grants == 0, f"{self.over_grants} more held than the budget of {self.budget}"
        assert self.refused_by_mysql == [], "MySQL refused a connection that was lent"
        assert self.back_after_ms is not None, f"slots were lost: the full budget was not back in {self.bound_ms} ms"
        assert self.back_after_ms <= self.bound_ms, f"back after {self.back_after_ms} ms, not {self.bound_ms}"
        assert self.in_use_after == 0, "connections are in use that no worker holds"

    def _write(self) -> None:
        back = "never" if self.back_after_ms is None else f"{self.back_after_ms / 1_000:.1f} s"
        row = (self.name, self.what_happened, len(self.holds), self.over_grants, len(self.refused_by_mysql), back)
        with ROWS.open("a", encoding="utf-8") as rows:
            rows.write("| " + " | ".join(map(str, row)) + f" | {self.bound_ms / 1_000:.1f} s |\n")


def judged(ground: Ground, crew: Crew, name: str, over_ms: int, what_happened: str) -> Verdict:
    """Stop the crew, and measure when the full budget is back, from the end of the fault."""
    crew.send_home()
    lease_ms = longest_lease_ms(crew.holds())
    probes, refused = list[Hold](), list[Refused]()
    give_up_ms = over_ms + lease_ms + SKEW_MS + 3 * DETECTION_MS
    back_ms = first_success_ms(lambda: whole_budget(ground, probes, refused), give_up_ms)
    crew.wait_until_home()
    return Verdict(
        name,
        what_happened,
        holds=crew.holds(),
        probes=probes,
        lease_ms=lease_ms,
        back_after_ms=None if back_ms is None else back_ms - over_ms,
        refused_by_mysql=crew.refused_by_mysql() + refused,
        in_use_after=in_use(ground.operations, DATABASE),
    )


def in_use(operations: Operations, database: str) -> int:
    """Return the connections in use; in every shard the counter must equal the leases."""
    status = operations.status(database)
    assert all(is_whole(shard) for shard in status.shards), status
    return status.in_use


def first_success_ms(call: Callable[[], bool], give_up_ms: int) -> int | None:
    """Call repeatedly; return when it first succeeded, or None if it did not in time."""
    while now_ms() < give_up_ms:
        if call():
            return now_ms()
        time.sleep(TRY_EACH_S)
    return None


def start_table() -> None:
    """Begin build/faults.md: a row for each drill of this run."""
    BUILD.mkdir(exist_ok=True)
    names = ["drill", "what happened", "holds", "over-grants", "refused by MySQL", "full budget back after", "at most"]
    ROWS.write_text("\n".join(["| " + " | ".join(names) + " |", "| --- " * len(names) + "|", ""]), encoding="utf-8")
