"""The `lambda` transport: reach the leases through the governor function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.aws.invoke import FunctionCaller
from connection_governor.client.remote import RemoteGovernor
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from connection_governor.wiring.environment import Environment

_INVOKE_TIMEOUT_S = 10.0  # a cold governor function answers in a second or two


def transport(environment: Environment) -> RemoteGovernor:
    """Return the function that `GOVERNOR_FUNCTION` names, as a transport."""
    function = environment.required("GOVERNOR_FUNCTION")
    endpoint = environment.endpoint("lambda", read_timeout_s=_INVOKE_TIMEOUT_S)
    return RemoteGovernor(FunctionCaller(endpoint, function), SYSTEM_CLOCK, SYSTEM_ENTROPY)
