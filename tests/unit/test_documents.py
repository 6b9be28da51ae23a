"""The documents' links lead somewhere, and the reference names every variable, error and metric."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connection_governor import errors, metrics
from connection_governor.cli import commands
from harness.paths import ROOT

FOLDERS = ("*.md", "docs/**/*.md", "bench/*.md", "examples/*.md")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(folder))
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:")


def without_code(text: str) -> str:
    """Drop fenced blocks, indented blocks and inline code: a link in them is no link."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4,}(?![-*|\d]).*$|`[^`\n]*`", "", text, flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(text)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(document: Path) -> Iterator[str]:
    """Name each link of a document that leads nowhere."""
    for link in LINK.findall(without_code(document.read_text())):
        if link.startswith(ELSEWHERE):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    """A reader who follows a link at 3 a.m. finds no page."""
    assert list(broken_links(document)) == []


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    """The test above would pass whatever the documents say."""
    (tmp_path / "there.md").write_text("# The one heading: `code`, and more\n")
    document = tmp_path / "document.md"
    document.write_text(
        "[a](there.md) [b](there.md#the-one-heading-code-and-more) [c](gone.md) [d](there.md#gone) [e](#own)\n"
        "\n## Own\n"
    )
    assert list(broken_links(document)) == ["gone.md", "there.md#gone"]


def reference() -> str:
    return (ROOT / "docs" / "reference.md").read_text()


def test_the_reference_names_every_environment_variable() -> None:
    """A worker's author cannot find a variable, and reads the source for it."""
    sources = [*(ROOT / "layers/governor/connection_governor").rglob("*.py"), *(ROOT / "functions").rglob("*.py")]
    read = {name for path in sources for name in re.findall(r'"((?:GOVERNOR|DB)_[A-Z_]+)"', path.read_text())}
    assert read >= {"GOVERNOR_TABLE", "DB_HOST"}
    assert sorted(name for name in read if f"`{name}`" not in reference()) == []


def test_the_reference_names_every_error_and_metric() -> None:
    """A worker's author meets an error that no document explains."""
    raised = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind is not errors.GovernorError
    }
    assert raised >= {"NoConnectionsLeft", "LeaseLost"}
    assert sorted(name for name in raised | metrics.METRICS.keys() if f"`{name}`" not in reference()) == []


def test_the_map_of_the_code_names_every_room() -> None:
    """A newcomer looks for a room that the map leaves out."""
    package = ROOT / "layers" / "governor" / "connection_governor"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert rooms >= {"core/", "client/"}
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert sorted(room for room in rooms if f"`{room}`" not in text) == []


def test_the_reference_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator at 3 a.m. does not know that there is a command for it."""
    with pytest.raises(SystemExit):
        commands.main(["--help"])
    names = set(re.findall(r"^    ([a-z-]+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert names >= {"status", "set-budget"}
    assert sorted(name for name in names if f"`governor {name} " not in reference()) == []


def test_the_changelog_has_one_section_of_each_kind_in_a_version() -> None:
    """A merge repeats a section, and a reader meets the same change twice, or misses one."""
    for version in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        kinds = re.findall(r"^### (\w+)$", version, re.MULTILINE)
        assert sorted(set(kinds)) == sorted(kinds)
