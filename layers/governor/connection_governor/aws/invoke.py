"""Invoke a Lambda function over the lean client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.aws.client import ServiceError, invoke
from connection_governor.errors import GovernorUnavailable

if TYPE_CHECKING:
    from connection_governor.aws.client import Endpoint
    from connection_governor.core.deadline import Deadline


class FunctionCaller:
    """Invokes a Lambda function over the lean client."""

    def __init__(self, endpoint: Endpoint, function: str) -> None:
        self._endpoint = endpoint
        self._function = function

    def __call__(self, payload: bytes, deadline: Deadline | None = None) -> tuple[bytes, str | None]:
        """See `remote.Invoke`."""
        try:
            return invoke(self._endpoint, self._function, payload, deadline)
        except ServiceError as refused:
            raise GovernorUnavailable(f"{self._function} cannot be invoked: {refused}", retryable=False) from refused
