"""Documents and docstrings are plain English (`docs/style.md`), as far as a program can tell."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.paths import ROOT

LONGEST = 35  # words of one sentence; docs/style.md asks for some 25
DOCUMENTS = [path for folder in ("*.md", "docs/*.md", "bench/*.md", "examples/*.md") for path in ROOT.glob(folder)]
FOLDERS = ("layers/governor", "functions", "harness", "bench", "examples", "tests")
MODULES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
QUOTES_THEM = {ROOT / "docs" / "style.md", Path(__file__)}
STUMBLING_BLOCKS = (
    r"\bof MySQL's\b(?! own)",
    r"\b(befall\w*|befell)\b",
    r"\btorn off\b",
    r"\bto the letter\b",
    r"\bwho waits\b",
    r"\bwho was refused\b",
    r"\bwhat is over\b",
    r"\bis no \w+ function\b",
    r"\bmend(s|ed)?\b",
)


def prose(document: Path) -> Iterator[str]:
    """Return a document's paragraphs and list items, without tables, code, headings and pictures."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    return (block for block in blocks if not re.match(r"\s*(\||#|<|!\[)|    ", block.strip("\n")))


def docstrings(module: Path) -> Iterator[str]:
    """Return the paragraphs of a module's docstrings, without tables and examples."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (
        ast.get_docstring(node) or ""
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, documented)
    )
    blocks = (block for text in texts for block in re.split(r"\n\s*\n", re.sub(r"\n {4,}.*", "", text)))
    return (block for block in blocks if "----" not in block)


def sentences(text: str) -> Iterator[str]:
    """Split prose at blank lines, and at full stops, colons and semicolons."""
    parts = (part for block in re.split(r"\n\s*\n", text) for part in re.split(r"(?<=[.:;!?])\s", block))
    return (" ".join(part.split()) for part in parts)


def too_long(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if len(sentence.split()) > LONGEST]


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_no_sentence_of_a_document_is_too_long(document: Path) -> None:
    """A newcomer reads a sentence twice, and then stops reading."""
    assert [sentence for block in prose(document) for sentence in too_long(block)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_sentence_of_a_docstring_is_too_long(folder: str) -> None:
    """A contributor reads a sentence twice, and then guesses."""
    modules = [path for path in MODULES if path.is_relative_to(ROOT / folder)]
    found = [(path, sentence) for path in modules for text in docstrings(path) for sentence in too_long(text)]
    assert [f"{path.relative_to(ROOT)}: {sentence}" for path, sentence in found] == []


@pytest.mark.parametrize("phrase", STUMBLING_BLOCKS)
def test_no_text_says_what_readers_stumble_over(phrase: str) -> None:
    """The mannered phrases, which cost each reader a second look, come back one by one."""
    texts = [(path, path.read_text()) for path in {*DOCUMENTS, *MODULES} - QUOTES_THEM]
    found = [f"{path.relative_to(ROOT)}: {hit.group()}" for path, text in texts for hit in re.finditer(phrase, text)]
    assert found == []


def test_a_long_sentence_is_found_and_a_table_is_none(tmp_path: Path) -> None:
    """The tests above would pass whatever is written."""
    document = tmp_path / "document.md"
    document.write_text(f"# {'word ' * 40}\n\n| {'word ' * 40} |\n\nShort. {'word ' * 36}end.\n")
    assert [len(sentence.split()) for block in prose(document) for sentence in too_long(block)] == [37]
