"""A worker's invocation: its Lambda context, also if it is wrapped, and its tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from connection_governor.core.checks import HOLDER_LENGTH
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from connection_governor.core.deadline import InvocationContext

_TENANT_LENGTH = 24


def lambda_context(context: object) -> InvocationContext:
    """Return the Lambda context of a handler's `context`.

    A durable function's handler gets a `DurableContext`; its `lambda_context` is that of the running invocation.

    Raises:
        InvalidRequest: `context` is neither of the two.
    """
    if _is_of_lambda(context):
        return context
    wrapped = getattr(context, "lambda_context", None)
    if _is_of_lambda(wrapped):
        return wrapped
    raise InvalidRequest(
        "context",
        f"must be the Lambda context, or a durable function's context that holds it, not {type(context).__name__}:"
        " inside a step, pass the handler's own context",
    )


def _is_of_lambda(context: object) -> TypeGuard[InvocationContext]:
    return callable(getattr(context, "get_remaining_time_in_millis", None))


def holder_for_tenant(holder: str, context: InvocationContext | None) -> str:
    """Return the environment's name with the invocation's tenant, if the function isolates its tenants.

    Too long a name first loses the end of the function's name; of the tenant only the last characters stay. The part
    before the first `/` still names the function.
    """
    tenant = getattr(context, "tenant_id", None)
    if not isinstance(tenant, str) or not tenant.isprintable():
        return holder
    function, slash, environment = holder.partition("/")
    rest = f"{slash}{environment}@{tenant[-_TENANT_LENGTH:]}"[: HOLDER_LENGTH - 1]
    return function[: HOLDER_LENGTH - len(rest)] + rest
