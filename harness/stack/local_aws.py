"""The local AWS (MiniStack) on loopback: DynamoDB, Lambda as real processes, CloudFormation, CloudWatch and more."""

from __future__ import annotations

import contextlib
import http.client
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from harness.paths import LOGS
from harness.stack.processes import LOOPBACK, free_port, short_folder, start, stop, wait_until_ready
from harness.stack.tools import tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REGION = "us-east-1"
KEY = "test"  # the local AWS takes any key; with AUTH the account's root
START_TIMEOUT_S = 60.0
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class LocalAws:
    """A running local AWS."""

    endpoint_url: str
    folder: Path
    group: int

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which the AWS CLI, boto3, sam and `governor` reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, service: str, *, read_timeout_s: float = 60.0, connections: int = 10) -> Any:  # noqa: ANN401 - each service has a client type of its own
        """Return a boto3 client of it that never retries, whatever this shell's AWS settings and proxies are."""
        return _client(self.endpoint_url, service, read_timeout_s, connections)


@cache
def _client(endpoint_url: str, service: str, read_timeout_s: float, connections: int) -> Any:  # noqa: ANN401 - as above
    config = Config(
        retries={"total_max_attempts": 1},
        read_timeout=read_timeout_s,
        max_pool_connections=connections,
        proxies={},
    )
    session = boto3.Session(KEY, KEY, region_name=REGION)
    return session.client(service, endpoint_url=endpoint_url, config=config)  # type: ignore[call-overload]


@contextlib.contextmanager
def local_aws(
    *,
    port: int | None = None,
    authorization: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[LocalAws]:
    """Run a local AWS with nothing in it.

    Args:
        port: the port to listen on, or None for a free one.
        authorization: whether the functions' roles are enforced.
        settings: more of MiniStack's own environment variables.
    """
    program, port = tool("ministack", "ministack"), free_port(port)
    LOGS.mkdir(parents=True, exist_ok=True)
    with short_folder("gov-aws-") as folder:
        for part in ("home", "tmp"):
            (folder / part).mkdir()
        # Functions inherit all of it: AWS would have none of this shell's variables.
        environment = {
            "PATH": f"{program.parent}:{SYSTEM_PATH}",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(port),
            "SFTP_ENABLED": "0",
            "AUTH": "true" if authorization else "false",
            **(settings or {}),
        }
        log = LOGS / "local-aws.log"
        log.unlink(missing_ok=True)
        server = start("the local AWS (MiniStack)", [program], log=log, env=environment, cwd=folder)
        try:
            wait_until_ready(server, lambda: _answers(port), timeout_s=START_TIMEOUT_S)
            yield LocalAws(f"http://{LOOPBACK}:{port}", folder, server.pid)
        finally:
            stop(server)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False
