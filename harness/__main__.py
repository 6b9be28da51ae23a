"""The commands of the local stack: `python -m harness demo|stack|prepare|test|package|on-aws` (make runs them)."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from harness.errors import StackError
from harness.stack.processes import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {
    "demo": "harness.demo.command",
    "stack": "harness.stack.command",
    "prepare": "harness.prepare",
    "test": "harness.checks",
    "package": "harness.package",
    "on-aws": "harness.demo.on_account",
}
INTERRUPTED = 130  # as shells report a program ended by Ctrl-C


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    command, *others = arguments or [""]
    if command not in COMMANDS or (others and command != "test"):
        print(f"usage: python -m harness {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    stop_on_signals()
    run: Callable[..., int] = import_module(COMMANDS[command]).main
    try:
        return run(others) if others else run()
    except StackError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything that was started has been stopped.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
