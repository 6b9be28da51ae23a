"""One run at a time in a checkout, and a report that outlives an aborted run."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from harness.errors import StackError
from harness.paths import ROOT
from harness.stack.lock import only_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDER = """
import sys
from pathlib import Path
from harness.stack.lock import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_run(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock; ended at the latest at the end of the test."""
    command = [sys.executable, "-c", HOLDER, str(lock)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_in_the_same_checkout_is_refused_by_name(tmp_path: Path) -> None:
    """Two runs build into the same folder, and one deploys half of what the other built."""
    lock = tmp_path / "run.lock"
    with another_run(lock) as other, pytest.raises(StackError) as refused, only_run(lock):
        pass
    assert str(refused.value).startswith(f"another run (pid {other.pid}) uses {tmp_path}:")


def test_a_run_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    """After a crash no run starts until a user finds and removes a file."""
    lock = tmp_path / "run.lock"
    with another_run(lock) as other:
        other.kill()
        other.wait()
        with only_run(lock):
            assert lock.read_text() == str(os.getpid())
    with only_run(lock):
        pass


def test_a_run_may_start_a_second_stack(tmp_path: Path) -> None:
    """The tests, which need one stack whose roles are enforced beside one whose roles are not."""
    lock = tmp_path / "run.lock"
    with only_run(lock):
        with only_run(lock):
            pass
        assert lock.read_text()
        with pytest.raises(StackError), rival(lock):
            pass
    with another_run(lock):
        pass


@contextmanager
def rival(lock: Path) -> Iterator[None]:
    """Run another process that tries; raise its error here."""
    command = [sys.executable, "-c", HOLDER, str(lock)]
    done = subprocess.run(command, cwd=ROOT, input="", capture_output=True, text=True, check=False)
    if "StackError" in done.stderr:
        raise StackError(done.stderr)
    yield
