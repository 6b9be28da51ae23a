"""The whole local stack: a private database and the local AWS, with the project's template deployed and seeded."""

from __future__ import annotations

import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import StackError
from harness.stack.deployment import DATABASE_NAME, Deployment, build_template, deploy, local_parameters
from harness.stack.driver_layer import keep_what_runs_here
from harness.stack.engines import SERVERS
from harness.stack.local_aws import LocalAws, local_aws
from harness.stack.lock import only_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.stack.database_server import DatabaseServer

FOR_MONITORING = 3  # connections beside the budget: the janitor's, an operator's, a deployment's
WORKER_TIMEOUT_S = 6  # at least; a lease reaches 16 s past it
WORKERS_A_SECOND = 4  # more of that time where more workers share this machine
ADMINISTRATOR = "administrator"


class Reachable(Protocol):
    """A deployed stack, here or in an account: its functions, and its table."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which `governor` reaches it."""

    def invoke(self, output: str, payload: object, *, timeout_s: float = 60.0) -> Any:  # noqa: ANN401 - any JSON
        """Invoke the function that a stack output names; return its answer."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack.

    Attributes:
        aws: the local AWS.
        database: the database server.
        deployment: what was deployed, with its outputs.
        allowed: the budget that it was deployed with.
        parameters: the template's parameters, to deploy again with some changed.
    """

    aws: LocalAws
    database: DatabaseServer
    deployment: Deployment
    allowed: int
    parameters: dict[str, str]

    def invoke(self, output: str, payload: object, *, timeout_s: float = 60.0) -> Any:  # noqa: ANN401 - any JSON
        """Invoke the function that a stack output names; return its answer.

        Raises:
            StackError: the function failed.
        """
        client = self.aws.client("lambda", read_timeout_s=timeout_s)
        answer = client.invoke(FunctionName=self.deployment.outputs[output], Payload=json.dumps(payload).encode())
        body = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise StackError(f"{output} failed: {body}")
        return body

    def redeploy(self, **changed: str) -> Deployment:
        """Deploy again with some parameters changed."""
        return deploy(self.aws, {**self.parameters, **changed}, stack_name=self.deployment.stack_name)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which the AWS CLI, boto3 and `governor` reach it."""
        outputs = self.deployment.outputs
        return {
            **self.aws.variables,
            "GOVERNOR_TRANSPORT": "direct",
            "GOVERNOR_TABLE": outputs["TableName"],
            "GOVERNOR_FUNCTION": outputs["GovernorFunctionName"],
            "GOVERNOR_DATABASE": DATABASE_NAME,
        }


@contextlib.contextmanager
def running_stack(  # noqa: PLR0913 - each is a choice of the caller
    *,
    engine: str = "mysql",
    allowed: int = 10,
    worker_timeout_s: int | None = None,
    janitor: bool = True,
    authorization: bool = False,
    concurrency: int = 25,
    stack_port: int | None = None,
    database_port: int | None = None,
    changed_parameters: dict[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[Stack]:
    """Start, build, deploy and seed; stop everything on leaving.

    Args:
        engine: which database server, a name of `engines.SERVERS`.
        allowed: the budget.
        worker_timeout_s: the worker's time-out, and so the lease's length less 16 s; None, one that fits `concurrency`.
        janitor: whether the janitor's schedule runs.
        authorization: whether the functions' roles are enforced.
        concurrency: how many workers are to run at a time.
        stack_port: the local AWS's port, or None for a free one.
        database_port: the database's port, or None for a free one.
        changed_parameters: template parameters that are to differ from `local_parameters`.
        say: called with each step.
    """
    server = SERVERS[engine](max_connections=allowed + FOR_MONITORING, port=database_port)
    say(f"Starting {server.LABEL} and the local AWS")
    threads = {"MINISTACK_WORKER_THREADS": str(max(64, 2 * concurrency + 16))}
    with (
        only_run(),
        server as database,
        local_aws(port=stack_port, authorization=authorization, settings=threads) as aws,
    ):
        say("Building the template with sam")
        template = build_template()
        keep_what_runs_here(template.parent)
        say("Deploying it with sam")
        parameters = local_parameters(
            engine=engine,
            allowed=allowed,
            endpoint=(database.host, _port(database)),
            administrator_secret_arn=_make_administrator(database, aws),
            authority=database.ca_path,
            worker_timeout_s=worker_timeout_s or max(WORKER_TIMEOUT_S, concurrency // WORKERS_A_SECOND),
            janitor=janitor,
        )
        parameters |= changed_parameters or {}
        yield Stack(aws, database, deploy(aws, parameters, template=template), allowed, parameters)


def _port(database: DatabaseServer) -> int:
    assert database.port is not None
    return database.port


def _make_administrator(database: DatabaseServer, aws: LocalAws) -> str:
    """Make the user that the seed function signs in as, and its secret; return the secret's ARN."""
    password = secrets.token_urlsafe(24)
    database.create_administrator(ADMINISTRATOR, password)
    secret = json.dumps({"username": ADMINISTRATOR, "password": password})
    made = aws.client("secretsmanager").create_secret(Name=f"{DATABASE_NAME}/{ADMINISTRATOR}", SecretString=secret)
    return str(made["ARN"])
