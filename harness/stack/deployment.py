"""Build the project's template with sam and deploy it to the local AWS, as it is: only parameters differ from AWS."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import StackError
from harness.paths import BUILD, TEMPLATE, TOOLS
from harness.stack.tools import tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.stack.local_aws import LocalAws

STACK_NAME = "connection-governor"
DATABASE_NAME = "Prod_MySQL"
FOLDER = BUILD / "sam"
BUILT = FOLDER / "built"
TIMEOUT_S = 300
DELETE_WAIT = {"Delay": 1, "MaxAttempts": TIMEOUT_S}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployed stack."""

    stack_name: str
    outputs: Mapping[str, str]


def build_template(template: Path = TEMPLATE) -> Path:
    """Run `sam build`; return the built template, which is below build/ like all its output."""
    places = ["--build-dir", str(BUILT), "--cache-dir", str(FOLDER / "cache"), "--cached"]
    _sam(["build", "--template-file", str(template), *places], {})
    return BUILT / "template.yaml"


def deploy(
    aws: LocalAws,
    parameters: Mapping[str, str],
    *,
    stack_name: str = STACK_NAME,
    template: Path = BUILT / "template.yaml",
) -> Deployment:
    """Run `sam deploy`, which creates the stack or updates it, and read the stack's outputs back."""
    overrides = [f"{name}={value}" for name, value in parameters.items()]
    options = ["--stack-name", stack_name, "--resolve-s3", "--no-confirm-changeset", "--no-fail-on-empty-changeset"]
    options += ["--capabilities", "CAPABILITY_IAM", "--no-progressbar", "--region", aws.variables["AWS_REGION"]]
    _sam(["deploy", "--template-file", str(template), *options, "--parameter-overrides", *overrides], aws.variables)
    return Deployment(stack_name, outputs(aws, stack_name))


def delete(aws: LocalAws, stack_name: str = STACK_NAME) -> None:
    """Delete the stack. Not by `sam delete`, which looks every 30 seconds only; its files go with the local AWS."""
    client = aws.client("cloudformation")
    client.delete_stack(StackName=stack_name)
    client.get_waiter("stack_delete_complete").wait(StackName=stack_name, WaiterConfig=DELETE_WAIT)


def outputs(aws: LocalAws, stack_name: str) -> dict[str, str]:
    """Return the stack's outputs by name."""
    (stack,) = aws.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def local_parameters(  # one place for what a local deployment needs
    *,
    engine: str,
    allowed: int,
    endpoint: tuple[str, int],
    administrator_secret_arn: str,
    authority: Path,
    worker_timeout_s: int = 30,
    janitor: bool = True,
) -> dict[str, str]:
    """Return the template's parameters for a local stack that brings its database.

    Args:
        engine: which database server.
        allowed: the budget.
        endpoint: its host and port.
        administrator_secret_arn: the secret with the administrator's user and password.
        authority: the file of the certificate authority, which local functions read where it stands.
        worker_timeout_s: the worker's time-out; a lease reaches some seconds past it.
        janitor: whether the janitor's schedule runs.
    """
    host, port = endpoint
    return {
        "DatabaseName": DATABASE_NAME,
        "AllowedConnections": str(allowed),
        "DatabaseEngine": "mysql" if engine == "mariadb" else engine,
        "DatabaseEndpoint": host,
        "DatabasePort": str(port),
        "DatabaseSecretArn": administrator_secret_arn,
        "DatabaseTlsCa": str(authority),
        "WorkerTimeoutSeconds": str(worker_timeout_s),
        "JanitorState": "ENABLED" if janitor else "DISABLED",
        "DataOnDelete": "remove",
    }


def _sam(arguments: list[str], variables: Mapping[str, str]) -> None:
    program = tool("sam", "sam")
    home = FOLDER / "home"  # sam keeps state there; it must not find a user's own AWS settings either
    home.mkdir(parents=True, exist_ok=True)
    settings = FOLDER / "samconfig.toml"
    settings.write_text("version = 0.1\n")
    environment = {
        **_without_aws(os.environ),
        **variables,
        "HOME": str(home),
        "PATH": f"{TOOLS / 'uv' / 'bin'}:{program.parent}:{os.environ.get('PATH', os.defpath)}",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.5",  # seconds; its 5 spare CloudFormation's rate limits, which the local AWS has not
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    command = [str(program), *arguments, "--config-file", str(settings)]
    done = subprocess.run(
        command,
        cwd=FOLDER,  # where it makes folders of its own
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace").strip()
        raise StackError(f"sam {arguments[0]} failed:\n{output}")


def _without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("AWS_")}
