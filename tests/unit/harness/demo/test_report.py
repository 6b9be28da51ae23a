"""The report's files."""

import re
from pathlib import Path

import pytest
from matplotlib.image import imread

from harness.demo.report import write_report
from harness.demo.summary import summarise
from tests.support.recordings import recorded


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Return the page of a run with one broken promise."""
    write_report(recorded(), summarise(recorded()), ["<all> is lost"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]
    assert imread(tmp_path / "report.png").shape[1] > 1_000
    return (tmp_path / "report.html").read_text()


def test_the_page_needs_no_other_file(page: str) -> None:
    """It is mailed around and opened without a network."""
    assert not re.findall(r"""(?:src|href)=["'](?!#)[^"']+""", page)
    assert "<svg" in page


def test_a_broken_promise_stands_on_the_page_as_it_is(page: str) -> None:
    """A reader of the report alone must see it, whatever characters it holds."""
    assert "Not every promise held: &lt;all&gt; is lost." in page


def test_the_report_speaks_of_the_engine_that_ran(tmp_path: Path) -> None:
    """A picture that names MySQL proves nothing about PostgreSQL."""
    recording = recorded(engine="postgresql")
    write_report(recording, summarise(recording), [], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "of PostgreSQL" in page
    assert "SQLSTATE 53300" in page
    assert "MySQL" not in page
    assert "error 1226" not in page
