"""`make test`'s tests: those of the deployed stack, which mostly wait, beside all others. Exit code 0 if all passed.

With arguments it runs pytest with these, and nothing beside it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from harness.paths import LOGS, ROOT
from harness.stack.processes import start, stop

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTEST: Final = [sys.executable, "-m", "pytest", "--durations=10"]
GRACE_S: Final = 60  # each stops the servers that it started
OF_THE_STACK: Final = "stack"  # the marker, see tests/conftest.py


def main(arguments: Sequence[str] = ()) -> int:
    """Run the tests; return 0 only if all of them passed."""
    if arguments:
        return _pytest(*arguments)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / "tests-of-the-stack.log"
    log.unlink(missing_ok=True)
    print(f"The tests of the deployed stack run beside the others; their output: {log.relative_to(ROOT)}", flush=True)
    beside = start("the stack's tests", [*PYTEST, "-p", "no:cacheprovider", "-m", OF_THE_STACK], log=log, cwd=ROOT)
    try:
        others = _pytest("-m", f"not {OF_THE_STACK}")
        print("\nWaiting for the tests of the deployed stack", flush=True)
        of_the_stack = beside.process.wait()
        print(log.read_text(errors="replace"), flush=True)
    finally:
        stop(beside, grace_s=GRACE_S)
    return others or of_the_stack


def _pytest(*arguments: str) -> int:
    """Run pytest, and let it stop what it started where this is interrupted. Return its exit code."""
    process = subprocess.Popen([*PYTEST, *arguments], cwd=ROOT, start_new_session=True)  # Ctrl-C reaches it once
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_S)
        raise
