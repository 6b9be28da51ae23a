"""`make test`'s tests, in three groups side by side: two of them mostly wait. Exit code 0 if all passed.

With arguments it runs pytest with these, and nothing beside it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from harness.paths import LOGS, ROOT
from harness.stack.processes import start, stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.stack.processes import Server

PYTEST: Final = [sys.executable, "-m", "pytest", "--durations=10"]
GRACE_S: Final = 60  # each stops the servers that it started
# By the markers of tests/conftest.py: each test is in one group.
OTHERS: Final = "not stack and not database"
BESIDE: Final = {
    "the deployed stack": "stack",
    "database servers": "database and not stack",
}


def main(arguments: Sequence[str] = ()) -> int:
    """Run the tests; return 0 only if all of them passed."""
    if arguments:
        return _pytest(*arguments)
    LOGS.mkdir(parents=True, exist_ok=True)
    with ExitStack() as until_end:
        beside = {name: _start(name, marker, until_end) for name, marker in BESIDE.items()}
        codes = [_pytest("-m", OTHERS)]
        for name, run in beside.items():
            print(f"\nWaiting for the tests of {name}", flush=True)
            codes.append(run.process.wait())
            print(run.log.read_text(errors="replace"), flush=True)
    return max(codes, key=abs)


def _start(name: str, marker: str, until_end: ExitStack) -> Server:
    """Start a group's tests, with their output in a file."""
    log: Path = LOGS / f"tests-of-{name.replace(' ', '-')}.log"
    log.unlink(missing_ok=True)
    print(f"The tests of {name} run beside the others; their output: {log.relative_to(ROOT)}", flush=True)
    run = start(name, [*PYTEST, "-p", "no:cacheprovider", "-m", marker], log=log, cwd=ROOT)
    until_end.callback(stop, run, grace_s=GRACE_S)
    return run


def _pytest(*arguments: str) -> int:
    """Run pytest, and let it stop what it started where this is interrupted. Return its exit code."""
    process = subprocess.Popen([*PYTEST, *arguments], cwd=ROOT, start_new_session=True)  # Ctrl-C reaches it once
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait(GRACE_S)
        raise
