"""Where the demo's results stand, and when."""

from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest

from harness.demo import command
from harness.demo.command import replacing
from harness.errors import StackError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the results of an earlier run."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "summary.json").write_text("earlier")
    (folder / "report.png").write_text("earlier")
    return folder


def abort(folder: Path) -> None:
    """Write half of a report, and end as by Ctrl-C."""
    with replacing(folder) as new:
        (new / "summary.json").write_text("half")
        raise KeyboardInterrupt


def test_an_aborted_run_leaves_the_report_of_the_run_before(folder: Path) -> None:
    """Ctrl-C in the tenth minute costs the user the only report there is."""
    with pytest.raises(KeyboardInterrupt):
        abort(folder)
    assert (folder / "summary.json").read_text() == "earlier"
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_a_run_that_ended_replaces_the_report_whole(folder: Path) -> None:
    """New figures beside an old picture."""
    with replacing(folder) as new:
        (new / "summary.json").write_text("new")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("summary.json", "new")]
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_the_first_run_has_nothing_to_replace(tmp_path: Path) -> None:
    """`make demo` on a fresh checkout."""
    with replacing(tmp_path / "build" / "demo") as new:
        (new / "summary.json").write_text("new")
    assert (tmp_path / "build" / "demo" / "summary.json").read_text() == "new"


def test_a_demo_that_cannot_start_leaves_the_report_of_the_run_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that is taken, or another run in this checkout, costs the user the only report there is."""

    def running_stack(**_options: object) -> NoReturn:
        raise StackError("port 3306 is taken")

    monkeypatch.setattr(command, "FOLDER", folder)
    monkeypatch.setattr(command, "only_run", nullcontext)
    monkeypatch.setattr(command, "running_stack", running_stack)
    with pytest.raises(StackError):
        command.main()
    assert (folder / "summary.json").read_text() == "earlier"
