"""Read a secret from Secrets Manager over the lean client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.aws.client import ServiceError, json_call
from connection_governor.core.retry import ACQUIRING
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.aws.client import Endpoint
    from connection_governor.core.deadline import Deadline
    from connection_governor.core.retry import Retry

_SECRETS_JSON = "application/x-amz-json-1.1"


class SecretFetcher:
    """Reads secrets by their ARN; connects to Secrets Manager at the first read."""

    def __init__(self, endpoint: Callable[[], Endpoint], retry: Retry) -> None:
        self._make_endpoint = endpoint
        self._endpoint: Endpoint | None = None
        self._retry = retry

    def __call__(self, arn: str, deadline: Deadline | None = None) -> str:
        """Return the secret's current string; no request outlasts the deadline."""
        endpoint = self._endpoint = self._endpoint or self._make_endpoint()
        asked = {"SecretId": arn}
        try:
            answer = self._retry(
                lambda: json_call(endpoint, "secretsmanager.GetSecretValue", asked, _SECRETS_JSON, deadline),
                ACQUIRING,
                deadline,
            )
        except ServiceError as refused:
            raise InvalidRequest("DB_SECRET_ARN", f"cannot be read: {refused}") from refused
        if "SecretString" not in answer:
            raise InvalidRequest("DB_SECRET_ARN", f"{arn} must hold text, not bytes")
        secret: str = answer["SecretString"]
        return secret
