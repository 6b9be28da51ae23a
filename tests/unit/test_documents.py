"""Every link between the repository's documents leads to a file and a heading that are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """A reader who follows a link at 3 a.m. gets a page that is not there."""
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
