"""Sessions of MySQL and MariaDB, as the `DB_...` variables name the database."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connection_governor.aws.secrets import SecretFetcher
from connection_governor.core.retry import Retry
from connection_governor.database.credentials import DatabaseCredentials
from connection_governor.database.server import ROLES
from connection_governor.database.target import Target
from connection_governor.mysql.connect import is_denied
from connection_governor.mysql.opener import Opener
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.server.ports import Administration, KeptWatch
    from connection_governor.wiring.environment import Environment


def opener(environment: Environment) -> Opener:
    """Return the opener of sessions of the database that the variables name."""
    target = Target(
        host=environment.required("DB_HOST"),
        port=environment.number("DB_PORT", 3306, most=65_535),
        database=environment.get("DB_NAME") or None,
        tls=environment.choice("DB_TLS", "verify", "verify", "require", "off"),
        tls_ca=environment.get("DB_TLS_CA") or None,
        resume_seconds=environment.number("DB_RESUME_SECONDS", 45, most=900),
        role=environment.choice("DB_ROLE", "any", *ROLES),
    )
    credentials = DatabaseCredentials(secret_fetcher(environment), is_denied)
    return Opener(target, credentials, environment.required("DB_SECRET_ARN"), SYSTEM_CLOCK)


def watch(environment: Environment) -> KeptWatch:
    """Return the janitor's view of the server; the governed users are named by `DB_WORKER_USERS`."""
    from connection_governor.server.mysql.watch import MySQLWatch  # noqa: PLC0415 - no worker watches

    return MySQLWatch(partial(opener, environment), lambda: environment.required("DB_WORKER_USERS").split(","))


def administration(environment: Environment) -> Administration:
    """Return what signs in to a server for the seed."""
    from connection_governor.server.mysql.administration import MySQLAdministration  # noqa: PLC0415 - no worker seeds

    return MySQLAdministration(secret_fetcher(environment))


def secret_fetcher(environment: Environment) -> SecretFetcher:
    """Return the reader of secrets; it connects to Secrets Manager at the first read."""
    endpoint = partial(environment.endpoint, "secretsmanager")
    return SecretFetcher(endpoint, Retry(SYSTEM_CLOCK, SYSTEM_ENTROPY))
