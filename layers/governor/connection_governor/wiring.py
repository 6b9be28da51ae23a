"""Puts the parts together from environment variables: the only place that knows their names, and reads `os.environ`."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from connection_governor.aws.client import Endpoint
from connection_governor.aws.credentials import credential_source
from connection_governor.aws.dynamodb import DynamoDBCaller, DynamoDBStore
from connection_governor.aws.endpoints import endpoint_url
from connection_governor.aws.invoke import FunctionCaller
from connection_governor.aws.secrets import SecretFetcher
from connection_governor.client.keepalive import LONGEST_KEEP_S
from connection_governor.client.lease_file import NO_NOTES, NoteFile
from connection_governor.client.ports import Outside
from connection_governor.client.remote import RemoteGovernor
from connection_governor.core.deadline import RESERVE_MS
from connection_governor.core.engine import Engine
from connection_governor.core.operations import Operations
from connection_governor.core.retry import Retry
from connection_governor.core.values import dataclass, field
from connection_governor.errors import InvalidRequest
from connection_governor.metrics import Reporter
from connection_governor.server.payloads import Requests
from connection_governor.server.service import Service
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connection_governor.mysql.opener import Opener

LONGEST_RESERVE_MS = 60_000
_INVOKE_TIMEOUT_S = 10.0  # a cold governor function answers in a second or two


@dataclass(frozen=True, slots=True)
class Environment:
    """What a worker, a function or a command was told by its environment.

    Attributes:
        variables: by name.
        endpoints: the services of AWS that were asked for, each with its kept connections.
    """

    variables: Mapping[str, str]
    endpoints: list[Endpoint] = field(default_factory=list)

    @classmethod
    def current(cls) -> Environment:
        """The process's own."""
        return cls(dict(os.environ))

    def get(self, name: str, default: str = "") -> str:
        """A variable, or the default where it is unset or empty."""
        return self.variables.get(name) or default

    def required(self, name: str) -> str:
        """A variable that must be set."""
        if not self.get(name):
            raise InvalidRequest(name, "must be set in the environment")
        return self.get(name)

    def number(self, name: str, default: int, *, most: int | None = None) -> int:
        """A variable that holds a whole number."""
        text = self.get(name, str(default))
        if not text.isdecimal():
            raise InvalidRequest(name, f"must be a whole number, not {text!r}")
        if most is not None and int(text) > most:
            raise InvalidRequest(name, f"must be at most {most}, not {text}")
        return int(text)

    def choice(self, name: str, default: str, *choices: str) -> str:
        """A variable that holds one of these words."""
        word = self.get(name, default)
        if word not in choices:
            raise InvalidRequest(name, f"must be one of {', '.join(choices)}, not {word!r}")
        return word

    def holder(self) -> str:
        """Return who acquires: the function's name and what tells its processes apart, or the host and process."""
        function = self.get("AWS_LAMBDA_FUNCTION_NAME")
        if not function:
            return f"{socket.gethostname()[:40]}/{os.getpid()}"
        stream = self.get("AWS_LAMBDA_LOG_STREAM_NAME")[-8:]
        if self.is_restored_from_snapshot:  # there is no log stream, and the process's number is the snapshot's
            return f"{function[:55]}/{os.urandom(4).hex()}"
        if stream and self.get("AWS_LAMBDA_MAX_CONCURRENCY"):  # Managed Instances: the processes share all else
            return f"{function[:47]}/{stream}.{os.getpid()}"
        return f"{function[:55]}/{stream or os.getpid()}"

    @property
    def is_restored_from_snapshot(self) -> bool:
        """Whether SnapStart restores this function's environments from one snapshot."""
        return self.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"

    def endpoint(self, service: str, *, read_timeout_s: float = 2.0) -> Endpoint:
        """Return one of AWS's services, reached over kept connections."""
        region = self.get("AWS_REGION") or self.get("AWS_DEFAULT_REGION")
        if not region:
            raise InvalidRequest("AWS_REGION", "must be set in the environment")
        url = endpoint_url(service, region, self.variables)
        source = credential_source(self.variables)
        try:
            endpoint = Endpoint(service, region, source, url=url, read_timeout_s=read_timeout_s)
        except InvalidRequest as error:
            raise InvalidRequest("AWS_ENDPOINT_URL", error.message) from error
        self.endpoints.append(endpoint)
        return endpoint

    def close(self) -> None:
        """Close the kept connections to AWS; each endpoint can still be used."""
        for endpoint in self.endpoints:
            endpoint.close()


def dynamodb_store(environment: Environment) -> DynamoDBStore:
    """The store in the table that `GOVERNOR_TABLE` names."""
    caller = DynamoDBCaller(environment.endpoint("dynamodb"))
    return DynamoDBStore(caller, environment.required("GOVERNOR_TABLE"))


def service(environment: Environment) -> Service:
    """The governor in this process: what the function serves, and the `direct` transport."""
    store = dynamodb_store(environment)
    skew_ms = environment.number("GOVERNOR_SKEW_MS", 0)
    engine = Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY, least_skew_ms=skew_ms)
    return Service(engine, Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY), Reporter(), SYSTEM_CLOCK)


def operations(environment: Environment) -> Operations:
    """The operator's verbs over the table that `GOVERNOR_TABLE` names."""
    return Operations(dynamodb_store(environment), SYSTEM_CLOCK, SYSTEM_ENTROPY)


def requests(environment: Environment) -> Requests:
    """What the governor function answers with."""
    return Requests(service(environment), SYSTEM_CLOCK, SYSTEM_ENTROPY)


def remote_governor(environment: Environment) -> RemoteGovernor:
    """The function that `GOVERNOR_FUNCTION` names, as a transport."""
    function = environment.required("GOVERNOR_FUNCTION")
    endpoint = environment.endpoint("lambda", read_timeout_s=_INVOKE_TIMEOUT_S)
    return RemoteGovernor(FunctionCaller(endpoint, function), SYSTEM_CLOCK, SYSTEM_ENTROPY)


def governor_parts(environment: Environment) -> dict[str, Any]:
    """What a worker's `Governor` is made of."""
    transport = environment.choice("GOVERNOR_TRANSPORT", "direct", "lambda", "direct")
    reach = remote_governor if transport == "lambda" else service
    return {
        "transport": reach(environment),
        "outside": Outside(
            clock=SYSTEM_CLOCK,
            entropy=SYSTEM_ENTROPY,
            reporter=Reporter(),
            opener=partial(opener, environment) if environment.get("DB_HOST") else None,
            operations=partial(operations, environment) if environment.get("GOVERNOR_TABLE") else None,
            notes=NoteFile() if environment.get("AWS_LAMBDA_RUNTIME_API") else NO_NOTES,
        ),
        "holder": environment.holder(),
        "database": environment.get("GOVERNOR_DATABASE") or None,
        "on_unavailable": environment.choice("GOVERNOR_ON_UNAVAILABLE", "raise", "raise", "open"),
        "keep_seconds": environment.number("GOVERNOR_KEEP_SECONDS", 0, most=LONGEST_KEEP_S),
        "reserve_ms": environment.number("GOVERNOR_RESERVE_MS", RESERVE_MS, most=LONGEST_RESERVE_MS),
    }


def opener(environment: Environment) -> Opener:
    """Opens sessions of the database that the `DB_...` variables name."""
    from connection_governor.mysql.connect import Target  # noqa: PLC0415 - a worker without a database of ours needs no driver
    from connection_governor.mysql.credentials import DatabaseCredentials  # noqa: PLC0415
    from connection_governor.mysql.opener import Opener  # noqa: PLC0415

    target = Target(
        host=environment.required("DB_HOST"),
        port=environment.number("DB_PORT", 3306),
        database=environment.get("DB_NAME") or None,
        tls=environment.choice("DB_TLS", "verify", "verify", "require", "off"),
        tls_ca=environment.get("DB_TLS_CA") or None,
    )
    credentials = DatabaseCredentials(secret_fetcher(environment))
    return Opener(target, credentials, environment.required("DB_SECRET_ARN"), SYSTEM_CLOCK)


def secret_fetcher(environment: Environment) -> SecretFetcher:
    """Reads secrets; connects to Secrets Manager when first asked."""
    endpoint = partial(environment.endpoint, "secretsmanager")
    return SecretFetcher(endpoint, Retry(SYSTEM_CLOCK, SYSTEM_ENTROPY))
