"""What the `DB_...` variables say, whatever kind of database they name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connection_governor.aws.secrets import SecretFetcher
from connection_governor.core.retry import Retry
from connection_governor.database.authorities import MODES
from connection_governor.database.credentials import DatabaseCredentials
from connection_governor.database.server import ROLES
from connection_governor.database.target import Target
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.database.credentials import IsDenied, Logins
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


def logins(environment: Environment, target: Target, *, is_denied: IsDenied, is_token_denied: IsDenied) -> Logins:
    """Return the credentials to try for each opening: those of a secret, or one user's tokens (`DB_AUTH=iam`)."""
    if environment.choice("DB_AUTH", "secret", "secret", "iam") == "iam":
        from connection_governor.wiring import iam  # noqa: PLC0415 - most workers have a password

        return iam.logins(environment, target, is_token_denied)
    secrets = DatabaseCredentials(secret_fetcher(environment), is_denied)
    return partial(secrets.attempts, environment.required("DB_SECRET_ARN"))


def secret_fetcher(environment: Environment) -> SecretFetcher:
    """Return the reader of secrets; it connects to Secrets Manager at the first read."""
    endpoint = partial(environment.endpoint, "secretsmanager")
    return SecretFetcher(endpoint, Retry(SYSTEM_CLOCK, SYSTEM_ENTROPY))
