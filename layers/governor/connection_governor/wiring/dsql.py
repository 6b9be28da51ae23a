"""Sessions of Aurora DSQL: PostgreSQL's, by tokens of IAM, under rules of its own. See `postgresql.rules`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from connection_governor.aws.database_tokens import dsql_request
from connection_governor.database.tokens import TokenCredentials
from connection_governor.errors import InvalidRequest
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from connection_governor.wiring.database import target
from connection_governor.wiring.iam import refuse_without_tls, tokens
from connection_governor.wiring.postgresql import PORT, driver_needed

if TYPE_CHECKING:
    from connection_governor.postgresql.opener import Opener
    from connection_governor.wiring.environment import Environment

_HOST = re.compile(r"\.dsql(?:-[a-z]+)?\.([a-z]+(?:-[a-z]+)+-[0-9]+)\.on\.(?:aws|amazonwebservices\.com\.cn)$")


def opener(environment: Environment) -> Opener:
    """Return the opener of sessions of the cluster that the variables name.

    Raises:
        InvalidRequest: psycopg is missing, or a variable is, or one has a value that DSQL does not know.
    """
    with driver_needed("dsql"):
        from connection_governor.postgresql.opener import Opener  # noqa: PLC0415 - an optional extra
        from connection_governor.postgresql.refusal import is_token_denied, is_too_fast  # noqa: PLC0415 - the same
        from connection_governor.postgresql.rules import AURORA_DSQL  # noqa: PLC0415 - the same
    environment.choice("DB_AUTH", "iam", "iam")
    environment.choice("DB_ROLE", "any", "any")
    cluster, user = target(environment, PORT), environment.required("DB_USER")
    refuse_without_tls(cluster)
    named = _HOST.search(cluster.host)
    request = dsql_request(named[1] if named else environment.region(), cluster.host, user)
    logins = TokenCredentials(
        user,
        tokens(environment, request),
        is_token_denied,
        SYSTEM_CLOCK,
        SYSTEM_ENTROPY,
        is_throttled=is_too_fast,
    )
    return Opener(cluster, logins.attempts, SYSTEM_CLOCK, AURORA_DSQL)


def watch(_: Environment) -> NoReturn:
    """Raise `InvalidRequest`: DSQL's view of its sessions is not known."""
    raise InvalidRequest("DB_ENGINE", "dsql has no janitor that counts or ends sessions: leave DB_HOST out")


def administration(_: Environment) -> NoReturn:
    """Raise `InvalidRequest`: DSQL's roles belong to IAM roles, and have no passwords or limits to set."""
    raise InvalidRequest("DB_ENGINE", "dsql is not seeded: make the role by hand, see docs/dsql.md")
