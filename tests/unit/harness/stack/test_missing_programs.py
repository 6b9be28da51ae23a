"""What a user reads when something is missing that cannot be installed."""

import pytest

from harness.errors import StackError
from harness.stack import mariadb_programs, packages


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine with neither MariaDB nor apt."""
    monkeypatch.setattr(mariadb_programs, "_installed", lambda: None)
    monkeypatch.setattr(mariadb_programs, "_unpacked", lambda: None)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)


def test_mariadb_that_cannot_be_had_is_named_with_the_way_to_get_it(bare_machine: None) -> None:
    """The user would otherwise read a traceback about a missing file."""
    with pytest.raises(StackError, match=r"MariaDB is missing.* sudo apt-get install mariadb-server-core"):
        mariadb_programs.mariadb_programs()


def test_another_program_that_cannot_be_had_is_named_with_the_way_to_get_it(bare_machine: None) -> None:
    """The same for Java and npm."""
    with pytest.raises(StackError, match=r"java is missing.* sudo apt-get install default-jre-headless"):
        packages.require_program("java", ["default-jre-headless"])
