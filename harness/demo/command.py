"""`make demo`: deploys, plays the scenario, and reports. Exit code 0 only if every promise held."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING

from harness.demo.progress import progress_for
from harness.demo.scenario import play
from harness.demo.summary import broken_promises, summarise
from harness.paths import BUILD, ROOT
from harness.run_options import RunOptions
from harness.stack.local_stack import running_stack
from harness.stack.lock import only_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.demo.recording import Recording

FOLDER = BUILD / "demo"


def main() -> int:
    """Run the demo; return 0 only if every promise held."""
    options = RunOptions.from_environment()
    with only_run(), progress_for() as progress:
        with running_stack(
            engine=options.engine,
            allowed=options.allowed,
            concurrency=options.concurrency,
            janitor=False,
            stack_port=options.stack_port,
            database_port=options.database_port,
            say=progress.step,
        ) as stack:
            recording = play(stack, options, progress)
        progress.step("Everything is stopped; drawing the report")
        with replacing(FOLDER) as folder:
            broken = report(recording, folder)
    print("Not every promise held." if broken else "Every promise held.")
    print(f"Results: {', '.join(str(path.relative_to(ROOT)) for path in sorted(FOLDER.iterdir()))}", flush=True)
    return 1 if broken else 0


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes `folder`'s place at the end; an aborted body leaves `folder` as it was."""
    new, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for left_over in (new, old):
            shutil.rmtree(left_over, ignore_errors=True)


def report(recording: Recording, folder: Path) -> list[str]:
    """Write the results and print the figures; return the promises that did not hold."""
    from harness.demo.report import write_report  # noqa: PLC0415 - drawing takes a second to import, and is needed last

    recording.write(folder / "recording.json")
    summary = summarise(recording)
    broken = broken_promises(summary, recording)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_report(recording, summary, broken, folder)
    print(json.dumps(summary, indent=2))
    for promise in broken:
        print(f"BROKEN: {promise}")
    return broken
