"""Sign-in by IAM: the user that `DB_USER` names, with tokens in place of a password. No secret is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.aws.credentials import credential_source
from connection_governor.aws.database_tokens import DatabaseTokens, rds_request
from connection_governor.database.authorities import region_of
from connection_governor.database.tokens import TokenCredentials
from connection_governor.errors import InvalidRequest
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.aws.database_tokens import TokenRequest
    from connection_governor.database.credentials import IsDenied, Logins
    from connection_governor.database.target import Target
    from connection_governor.wiring.environment import Environment


def logins(environment: Environment, target: Target, is_denied: IsDenied) -> Logins:
    """Return the user's tokens for each opening of a database on RDS.

    Raises:
        InvalidRequest: `DB_USER` is missing, or `DB_TLS` is off.
    """
    refuse_without_tls(target)
    user = environment.required("DB_USER")
    region = region_of(target.host) or environment.region()
    request = rds_request(region, target.host, target.port, user)
    return TokenCredentials(user, tokens(environment, request), is_denied, SYSTEM_CLOCK, SYSTEM_ENTROPY).attempts


def tokens(environment: Environment, request: TokenRequest) -> DatabaseTokens:
    """Return the tokens of this process's credentials."""
    return DatabaseTokens(request, credential_source(environment.variables), SYSTEM_CLOCK)


def refuse_without_tls(target: Target) -> None:
    """Raise `InvalidRequest` if `DB_TLS` is off."""
    if target.tls == "off":
        raise InvalidRequest("DB_TLS", "must be verify or require with DB_AUTH=iam: a token is never sent without TLS")
