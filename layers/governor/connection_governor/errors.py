"""The exceptions of the package: six, one base. Inside the core a refusal is a value (`lease.Refusal`)."""


class GovernorError(Exception):
    """Base of everything that the governor raises."""


class InvalidRequest(GovernorError):
    """A request that can never succeed: `field` names what to correct; nothing was written."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class UnknownDatabase(GovernorError):
    """No budget was ever set for this database name."""

    def __init__(self, database: str) -> None:
        super().__init__(
            f"database {database!r} has no budget: check the name, or run `governor set-budget {database} N`"
        )
        self.database = database


class NoConnectionsLeft(GovernorError):
    """Every connection of the budget stayed in use until the time-out; try again after `retry_after_ms`.

    If too little of the invocation was left to ask, the `reason` says it, and the figures are 0.
    `too_fast`: connections are left, but too many were granted lately for the database's opening rate.
    """

    def __init__(
        self,
        database: str,
        *,
        retry_after_ms: int,
        allowed: int,
        in_use: int,
        reason: str | None = None,
        too_fast: bool = False,
    ) -> None:
        found = f"{in_use} of {allowed} in use, retry in {retry_after_ms} ms"
        what = "connections are opened too fast" if too_fast else "no connection left"
        super().__init__(f"{what} for {database!r}: {reason or found}")
        self.database = database
        self.retry_after_ms = retry_after_ms
        self.allowed = allowed
        self.in_use = in_use
        self.too_fast = too_fast


class GovernorUnavailable(GovernorError):
    """DynamoDB or the governor function could not be reached, or answered with a fault, within bounded retries."""

    def __init__(self, message: str, *, throttled: bool = False, retryable: bool = True) -> None:
        super().__init__(message)
        self.throttled = throttled  # True: the request was refused for its rate, and certainly not applied
        self.retryable = retryable  # False: another try cannot help, as with a missing table or permission


class LeaseLost(GovernorError):
    """The lease is lost: its holder must not use its connections any more."""
