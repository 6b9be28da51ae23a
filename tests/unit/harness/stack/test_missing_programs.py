"""What a user reads when something is missing that cannot be installed."""

import os
from pathlib import Path

import pytest

from harness.errors import StackError
from harness.stack import mariadb_programs, mysql_programs, packages


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


def test_mysql_that_cannot_be_had_is_named_with_two_ways_out(
    bare_machine: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A system without apt reads what to set, and that MariaDB would do."""
    monkeypatch.delenv("MYSQL_ROOT", raising=False)
    monkeypatch.setattr(mysql_programs, "ROOT", tmp_path / "root")
    with pytest.raises(StackError, match=r"MySQL is missing.* no apt-get .*Set MYSQL_ROOT .*ENGINE=mariadb"):
        mysql_programs.mysql_programs()


def test_without_the_key_of_its_packages_mysql_is_not_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another distribution has apt, but not Debian's keyring: apt's own words would not say what to install."""
    monkeypatch.delenv("MYSQL_ROOT", raising=False)
    monkeypatch.setattr(mysql_programs, "ROOT", tmp_path / "root")
    monkeypatch.setattr(mysql_programs, "KEYRING", tmp_path / "missing.gpg")
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")
    with pytest.raises(StackError, match=r"missing\.gpg: install the package debian-archive-keyring"):
        mysql_programs.mysql_programs()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_mysql_that_the_user_names_must_hold_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt folder would otherwise silently run another MySQL."""
    monkeypatch.setenv("MYSQL_ROOT", str(tmp_path))
    with pytest.raises(StackError, match=r"MYSQL_ROOT is .* no program .*usr/sbin/mysqld"):
        mysql_programs.mysql_programs()


def test_a_tree_with_a_loader_of_its_own_is_run_by_it(tmp_path: Path) -> None:
    """MySQL's programs need a newer libc than this system may have."""
    machine = os.uname().machine
    loader = tmp_path / "usr/lib" / f"{machine}-linux-gnu" / mysql_programs.LOADERS[machine]
    found = mysql_programs.Programs(tmp_path)
    assert found.command == [str(found.server)]
    loader.parent.mkdir(parents=True)
    loader.touch()
    assert found.command[0] == str(loader)
    assert found.command[-1] == str(found.server)
