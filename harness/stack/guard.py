"""End what a run leaves behind: process groups and folders, cleaned up when the run's pipe closes.

Runs as a process of its own, so that it also works when the run is killed with a signal that nothing can catch.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

POLL_S = 0.02


def group_alive(group: int) -> bool:
    """Return whether the process group has a member other than dead children that wait for their parent."""
    with os.scandir("/proc") as entries:
        return any(_runs_in(entry.path, group) for entry in entries if entry.name.isdigit())


def _runs_in(folder: str, group: int) -> bool:
    try:
        with open(f"{folder}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123 - starts without pathlib
            state, _, member_of = stat.read().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(member_of) == group and state not in "ZX"


def end_group(group: int, grace_s: float) -> None:
    """Ask a process group to end, and kill what is left of it after `grace_s` seconds."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        _wait_for_end(group, grace_s)
        os.killpg(group, signal.SIGKILL)
        _wait_for_end(group, grace_s)


def _wait_for_end(group: int, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while group_alive(group) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def watch(lines: Iterable[str], grace_s: float = 3.0) -> None:
    """Follow lines of `add|drop group|folder NAME`; when they end, clean up what was added and not dropped."""
    kept: dict[tuple[str, str], None] = {}
    for line in lines:
        verb, kind, name = line.rstrip("\n").split(" ", 2)
        if verb == "add":
            kept[kind, name] = None
        else:
            kept.pop((kind, name), None)
    for kind, name in reversed(kept):
        if kind == "group":
            end_group(int(name), grace_s)
        else:
            shutil.rmtree(name, ignore_errors=True)


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    watch(sys.stdin)
