"""A process's environment variables: the only place that reads `os.environ`."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from connection_governor.aws.client import Endpoint
from connection_governor.aws.credentials import credential_source
from connection_governor.aws.endpoints import endpoint_url
from connection_governor.core.values import dataclass, field
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment of a worker, a function or a command.

    Attributes:
        variables: by name.
        endpoints: the AWS services used so far, each with its kept connections.
    """

    variables: Mapping[str, str]
    endpoints: list[Endpoint] = field(default_factory=list)

    @classmethod
    def current(cls) -> Environment:
        """Return the process's own."""
        return cls(dict(os.environ))

    def get(self, name: str, default: str = "") -> str:
        """Return a variable, or the default if it is unset or empty."""
        return self.variables.get(name) or default

    def required(self, name: str) -> str:
        """Return a variable that must be set."""
        if not self.get(name):
            raise InvalidRequest(name, "must be set in the environment")
        return self.get(name)

    def number(self, name: str, default: int, *, most: int | None = None) -> int:
        """Return a variable that holds a whole number."""
        text = self.get(name, str(default))
        if not text.isdecimal():
            raise InvalidRequest(name, f"must be a whole number, not {text!r}")
        if most is not None and int(text) > most:
            raise InvalidRequest(name, f"must be at most {most}, not {text}")
        return int(text)

    def choice(self, name: str, default: str, *choices: str) -> str:
        """Return a variable that holds one of these words."""
        word = self.get(name, default)
        if word not in choices:
            raise InvalidRequest(name, f"must be one of {', '.join(choices)}, not {word!r}")
        return word

    def holder(self) -> str:
        """Return the holder's name: the function's name and what distinguishes its processes, or host and process."""
        function = self.get("AWS_LAMBDA_FUNCTION_NAME")
        if not function:
            return f"{socket.gethostname()[:40]}/{os.getpid()}"
        stream = self.get("AWS_LAMBDA_LOG_STREAM_NAME")[-8:]
        if self.is_restored_from_snapshot:  # there is no log stream, and the process's number is the snapshot's
            return f"{function[:55]}/{os.urandom(4).hex()}"
        if stream and self.is_managed_instance:  # its processes share everything else
            return f"{function[:47]}/{stream}.{os.getpid()}"
        return f"{function[:55]}/{stream or os.getpid()}"

    @property
    def is_managed_instance(self) -> bool:
        """Whether several invocations run at once, each in a process that no deadline stops (Managed Instances)."""
        return bool(self.get("AWS_LAMBDA_MAX_CONCURRENCY"))

    @property
    def is_restored_from_snapshot(self) -> bool:
        """Whether SnapStart restores this function's environments from one snapshot."""
        return self.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"

    def region(self) -> str:
        """Return the region that this process works in."""
        region = self.get("AWS_REGION") or self.get("AWS_DEFAULT_REGION")
        if not region:
            raise InvalidRequest("AWS_REGION", "must be set in the environment")
        return region

    def endpoint(self, service: str, *, read_timeout_s: float = 2.0) -> Endpoint:
        """Return one of AWS's services, reached over kept connections."""
        region = self.region()
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
