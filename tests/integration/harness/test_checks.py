"""What `make test` runs, and that it fails where a test fails."""

import sys
from pathlib import Path

import pytest

from harness import checks

GROUPS = [checks.OTHERS, *checks.BESIDE.values()]
PYTEST_THAT_FAILS = """
import sys
print("chosen:", sys.argv[-1])
sys.exit(sys.argv[-1] == {failing!r})
"""


@pytest.mark.parametrize(("failing", "code"), [("nothing", 0), *((group, 1) for group in GROUPS)])
def test_a_failure_in_any_group_fails_the_run(
    failing: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A run that ends well although a test failed would land the defect."""
    program = tmp_path / "pytest.py"
    program.write_text(PYTEST_THAT_FAILS.format(failing=failing))
    monkeypatch.setattr(checks, "PYTEST", [sys.executable, str(program)])
    monkeypatch.setattr(checks, "LOGS", tmp_path)
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    assert checks.main() == code
    shown = capfd.readouterr().out
    assert [group for group in GROUPS if f"chosen: {group}\n" not in shown] == []
