"""Fetch a Debian package with all its libraries by apt, and unpack it below build/tools: no rights, nothing installed.

apt runs with lists, cache and state of its own, and an empty list of installed packages. So it fetches every library,
and cannot touch this system.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.errors import StackError

MERGED = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True, slots=True)
class Unpacking:
    """One package, where it goes, and what the user reads if it cannot be fetched.

    Attributes:
        name: the product's name, for messages.
        package: Debian's package.
        by_hand: another way to get it, as the end of a message.
        wanted: whether an archive, by its file's name, is to be unpacked.
        sources: the lines of apt's sources, or "" for this system's own.
    """

    name: str
    package: str
    by_hand: str
    wanted: Callable[[str], bool]
    sources: str = ""

    def into(self, folder: Path) -> None:
        """Fetch and unpack to `folder`; an interrupted run leaves no tree that looks whole.

        Raises:
            StackError: apt is missing, or could not get the packages.
        """
        require_apt(self.name, self.by_hand)
        print(f"Fetching {self.name} and unpacking it below {folder.parent} ...", flush=True)
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        tree = partial / "root"
        _make_folders(tree)
        for archive in self._download(partial):
            self._unpack(archive, tree)
        tree.rename(folder)
        shutil.rmtree(partial)

    def _download(self, folder: Path) -> list[Path]:
        archives = folder / "cache" / "archives"
        for needed in (archives / "partial", folder / "lists" / "partial", folder / "state"):
            needed.mkdir(parents=True)
        (folder / "status").touch()
        settings = _private_settings(folder) | (self._own_sources(folder) if self.sources else {})
        apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
        self._run([*apt, "update"])
        self._run([*apt, "install", "--yes", "--download-only", self.package])
        return [path for path in sorted(archives.glob("*.deb")) if self.wanted(path.name)]

    def _own_sources(self, folder: Path) -> dict[str, str]:
        (folder / "sources.list").write_text(self.sources)
        return {"Dir::Etc::SourceList": f"{folder}/sources.list", "Dir::Etc::SourceParts": "/dev/null"}

    def _unpack(self, archive: Path, tree: Path) -> None:
        """Unpack by tar, which follows the links of the merged folders; `dpkg-deb -x` would replace them."""
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as files:
            self._run(["tar", "-x", "-C", str(tree), "--keep-directory-symlink", "--no-same-owner"], files.stdout)
        if files.returncode != 0:
            raise StackError(f"{self.name} is missing, and {archive.name} could not be unpacked. {self.by_hand}")

    def _run(self, command: Sequence[str], stdin: int | IO[bytes] | None = subprocess.DEVNULL) -> None:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StackError(
                f"{self.name} is missing, and {command[0]} could not get it:\n{done.stderr.strip()}\n{self.by_hand}"
            )


def require_apt(name: str, by_hand: str) -> None:
    """Check that this system can fetch and unpack Debian's packages.

    Raises:
        StackError: a program for it is missing.
    """
    missing = [program for program in ("apt-get", "dpkg-deb", "tar") if shutil.which(program) is None]
    if missing:
        raise StackError(f"{name} is missing, and this system has no {' or '.join(missing)} to get it with. {by_hand}")


def _private_settings(folder: Path) -> dict[str, str]:
    """Return apt's settings for a state of its own; proxies and the like stay as this system has them."""
    return {
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": f"{folder}/state",
        "Dir::State::lists": f"{folder}/lists",
        "Dir::State::status": f"{folder}/status",
        "Dir::Cache": f"{folder}/cache",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "APT::Default-Release": "",
        "APT::Update::Error-Mode": "any",  # else a mirror that does not answer shows as a missing package
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }


def _make_folders(tree: Path) -> None:
    """Make the merged folders of a Debian system: some packages still hold /lib and /bin."""
    for name in MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
