"""`make stack`: keeps a deployed stack up until Ctrl-C or SIGTERM, and says how to reach it."""

import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from typing import Any

from harness.paths import BUILD
from harness.run_options import RunOptions
from harness.stack.deployment import DATABASE_NAME
from harness.stack.local_stack import FOR_MONITORING, Stack, running_stack
from harness.stack.lock import only_run
from harness.stack.processes import stop_on_signals

DESCRIPTION = BUILD / "stack.json"


def describe(stack: Stack) -> dict[str, Any]:
    """Return the content of `build/stack.json`, for other programs."""
    return {
        "endpoint_url": stack.aws.endpoint_url,
        "region": stack.aws.variables["AWS_REGION"],
        "stack_name": stack.deployment.stack_name,
        "outputs": dict(stack.deployment.outputs),
        "database": {
            "engine": stack.database.ENGINE,
            "engine_version": stack.database.release(),
            "name": DATABASE_NAME,
            "host": stack.database.host,
            "port": stack.database.port,
            "allowed": stack.allowed,
            "max_connections": stack.allowed + FOR_MONITORING,
        },
    }


def export_lines(stack: Stack) -> list[str]:
    """Return the lines to paste into a shell to reach the stack."""
    return [f"export {name}={shlex.quote(value)}" for name, value in stack.variables.items()]


def main() -> int:
    """Start the stack and keep it until the end is asked for; return the exit code."""
    options = RunOptions.from_environment()
    stop_on_signals()
    with only_run(), _description_removed():
        _keep(options)
    return 0


def _keep(options: RunOptions) -> None:
    with running_stack(
        engine=options.engine,
        allowed=options.allowed,
        concurrency=options.concurrency,
        stack_port=options.stack_port,
        database_port=options.database_port,
        say=lambda step: print(f"{step} ...", flush=True),
    ) as stack:
        _announce(stack)
        _wait_for_interrupt()
        print("\nStopping the stack ...", flush=True)


@contextlib.contextmanager
def _description_removed() -> Iterator[None]:
    """Remove the description of an earlier stack, and at the end that of this one: neither is there any more."""
    DESCRIPTION.unlink(missing_ok=True)
    try:
        yield
    finally:
        DESCRIPTION.unlink(missing_ok=True)


def _announce(stack: Stack) -> None:
    partial = DESCRIPTION.with_suffix(".partial")
    partial.write_text(json.dumps(describe(stack), indent=2) + "\n")
    partial.replace(DESCRIPTION)  # a waiting reader never reads half of it
    print(f"\nReady; described in {DESCRIPTION.relative_to(BUILD.parent)}. In another terminal:\n")
    print("\n".join(export_lines(stack)))
    print("\nCtrl-C stops it.", flush=True)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
