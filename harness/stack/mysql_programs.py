"""Find MySQL's server program, or get it: fetched by apt and unpacked below build/tools, without any rights.

Debian 12 has no MySQL, Debian's suite sid has. Its programs need a newer libc than this system's, so the whole tree of
libraries comes along. apt runs with lists, cache and state of its own, and an empty list of installed packages: it then
fetches every library, and cannot touch this system.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from harness.errors import StackError
from harness.paths import TOOLS

ROOT_VARIABLE: Final = "MYSQL_ROOT"
FOLDER: Final = TOOLS / "mysql"
PACKAGE: Final = "mysql-server-core"
SUITE: Final = "sid"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OS_RELEASE: Final = Path("/etc/os-release")
BY_HAND: Final = f"set {ROOT_VARIABLE} to a folder in which usr/sbin/mysqld stands, or run with ENGINE=mariadb."
LOADERS: Final = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
# Only for scripts that stand beside the server: not unpacked.
NOT_NEEDED: Final = ("perl", "libperl", "gcc-", "libdb5", "libgdbm", "libc-gconv")


@dataclass(frozen=True, slots=True)
class Programs:
    """MySQL's programs in an unpacked tree.

    The kernel would take the loader that a program names: this system's, with a libc that may be too old. So the tree's
    own loader is started by its path, and told where its libraries are. LD_LIBRARY_PATH stays unset, so that no child
    process of the server meets a foreign libc.
    """

    root: Path

    @property
    def base(self) -> Path:
        """What MySQL calls its basedir."""
        return self.root / "usr"

    @property
    def server(self) -> Path:
        """The server's program."""
        return self.base / "sbin/mysqld"

    @property
    def command(self) -> list[str]:
        """The start of the server's command line: by way of the tree's loader, if the tree has one."""
        machine = os.uname().machine
        libraries = self.base / "lib" / f"{machine}-linux-gnu"
        loader = libraries / LOADERS.get(machine, "no loader is known")
        if not loader.exists():
            return [str(self.server)]
        return [str(loader), "--library-path", f"{libraries}:{self.base / 'lib/mysql/private'}", str(self.server)]


def mysql_programs() -> Programs:
    """Return MySQL's programs, after fetching them if they are missing.

    Raises:
        StackError: they are missing and cannot be fetched; the message says how to get them.
    """
    brought = os.environ.get(ROOT_VARIABLE, "").strip()
    found = Programs(Path(brought) if brought else FOLDER / "root")
    if not os.access(found.server, os.X_OK):
        if brought:
            raise StackError(
                f"{ROOT_VARIABLE} is {brought}, and there is no program {found.server}. Correct it, or leave it out."
            )
        _fetch(FOLDER)
    return found


def _fetch(folder: Path) -> None:
    """Fetch the packages and unpack them; an interrupted run leaves no tree that looks whole."""
    missing = [name for name in ("apt-get", "dpkg-deb", "tar") if shutil.which(name) is None]
    if missing:
        raise StackError(
            f"MySQL is missing, and this system has no {' or '.join(missing)} to get it with. Instead, {BY_HAND}"
        )
    if not os.access(KEYRING, os.R_OK):
        raise StackError(
            f"MySQL is missing, and its packages cannot be checked without {KEYRING}: install the package "
            f"debian-archive-keyring. Or {BY_HAND}"
        )
    print("Fetching MySQL (58 MB) and unpacking it below build/tools ...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    archives = _download(partial)
    tree = partial / "root"
    _make_folders(tree)
    for archive in archives:
        _unpack(archive, tree)
    tree.rename(folder / "root")
    shutil.rmtree(partial)


def _download(folder: Path) -> list[Path]:
    archives = folder / "cache" / "archives"
    for needed in (archives / "partial", folder / "lists" / "partial", folder / "state"):
        needed.mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in _private_settings(folder).items())]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--download-only", PACKAGE])
    return [path for path in sorted(archives.glob("*.deb")) if not path.name.startswith(NOT_NEEDED)]


def _private_settings(folder: Path) -> dict[str, str]:
    """Return apt's settings for a state of its own; the mirror's proxies and the like stay as this system has them."""
    return {
        "Dir::Etc::SourceList": f"{folder}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
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


def _mirror() -> str:
    """Return the mirror that this system takes its own release from: not updates, nor another party's packages."""
    release = _release()
    line_format = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = ["apt-get", "indextargets", "--no-release-info", "--format", line_format, "Created-By: Packages"]
    for line in _run(targets).splitlines():
        mirror, *rest = line.split()
        if rest == [release, "main"]:
            return mirror
    raise StackError(
        f"MySQL is missing, and apt has no source of {release!r} to take Debian's mirror from. Instead, {BY_HAND}"
    )


def _release() -> str:
    names = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    return names.get("VERSION_CODENAME", "").strip('"')


def _make_folders(tree: Path) -> None:
    """Make the merged folders of a Debian system: some packages still hold /lib and /bin."""
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")


def _unpack(archive: Path, tree: Path) -> None:
    """Unpack by tar, which follows the links of the merged folders; `dpkg-deb -x` would replace them."""
    files = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE)
    with files:
        _run(["tar", "-x", "-C", str(tree), "--keep-directory-symlink", "--no-same-owner"], stdin=files.stdout)
    if files.returncode != 0:
        raise StackError(f"MySQL is missing, and {archive.name} could not be unpacked. Instead, {BY_HAND}")


def _run(command: list[str], stdin: int | IO[bytes] | None = subprocess.DEVNULL) -> str:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(
            f"MySQL is missing, and {command[0]} could not get it:\n{done.stderr.strip()}\nInstead, {BY_HAND}"
        )
    return done.stdout
