"""`make stack`: keeps a deployed stack up until Ctrl-C or SIGTERM, and says how to reach it."""

import json
import shlex
import time
from typing import Any

from harness.paths import BUILD
from harness.settings import Settings
from harness.stack.deployment import DATABASE_NAME
from harness.stack.local_stack import FOR_MONITORING, Stack, running_stack
from harness.stack.processes import stop_on_signals

DESCRIPTION = BUILD / "stack.json"


def describe(stack: Stack) -> dict[str, Any]:
    """What `build/stack.json` tells other programs."""
    return {
        "endpoint_url": stack.aws.endpoint_url,
        "region": stack.aws.variables["AWS_REGION"],
        "stack_name": stack.deployment.stack_name,
        "outputs": dict(stack.deployment.outputs),
        "database": {
            "name": DATABASE_NAME,
            "host": stack.database.host,
            "port": stack.database.port,
            "allowed": stack.allowed,
            "max_connections": stack.allowed + FOR_MONITORING,
        },
    }


def export_lines(stack: Stack) -> list[str]:
    """What to paste into a shell to reach the stack."""
    return [f"export {name}={shlex.quote(value)}" for name, value in stack.variables.items()]


def main() -> int:
    """Starts the stack and waits for the end."""
    settings = Settings.from_environment()
    stop_on_signals()
    DESCRIPTION.unlink(missing_ok=True)
    with running_stack(
        allowed=settings.allowed,
        concurrency=settings.concurrency,
        stack_port=settings.stack_port,
        database_port=settings.database_port,
        say=lambda step: print(f"{step} ...", flush=True),
    ) as stack:
        try:
            _announce(stack)
            _wait_for_interrupt()
        finally:
            DESCRIPTION.unlink(missing_ok=True)
            print("\nStopping the stack ...", flush=True)
    return 0


def _announce(stack: Stack) -> None:
    partial = DESCRIPTION.with_suffix(".partial")
    partial.write_text(json.dumps(describe(stack), indent=2) + "\n")
    partial.replace(DESCRIPTION)  # whoever waits for the file never reads half of it
    print(f"\nReady; described in {DESCRIPTION.relative_to(BUILD.parent)}. In another terminal:\n")
    print("\n".join(export_lines(stack)))
    print("\nCtrl-C stops it.", flush=True)


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
