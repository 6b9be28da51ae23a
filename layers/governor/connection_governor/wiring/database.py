"""What the `DB_...` variables say, whatever kind of database they name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connection_governor.aws.secrets import SecretFetcher
from connection_governor.core.retry import Retry
from connection_governor.database.authorities import MODES
from connection_governor.database.server import ROLES
from connection_governor.database.target import Target
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.wiring.environment import Environment


def target(environment: Environment, port: int) -> Target:
    """Return where the database listens; its kind's usual port is the default."""
    return Target(
        host=environment.required("DB_HOST"),
        port=environment.number("DB_PORT", port, most=65_535),
        database=environment.get("DB_NAME") or None,
        tls=environment.choice("DB_TLS", "verify", *MODES),
        tls_ca=environment.get("DB_TLS_CA") or None,
        resume_seconds=environment.number("DB_RESUME_SECONDS", 45, most=900),
        role=environment.choice("DB_ROLE", "any", *ROLES),
    )


def secret_fetcher(environment: Environment) -> SecretFetcher:
    """Return the reader of secrets; it connects to Secrets Manager at the first read."""
    endpoint = partial(environment.endpoint, "secretsmanager")
    return SecretFetcher(endpoint, Retry(SYSTEM_CLOCK, SYSTEM_ENTROPY))
