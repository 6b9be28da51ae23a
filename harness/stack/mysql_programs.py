"""Find MySQL's server program, or fetch it below build/tools: Debian 12 has no MySQL, Debian's suite sid has.

Its programs need a newer libc than this system's, so the whole tree of libraries comes along.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import StackError
from harness.paths import TOOLS
from harness.stack.unpacked import Unpacking, require_apt

ROOT_VARIABLE: Final = "MYSQL_ROOT"
ROOT: Final = TOOLS / "mysql" / "root"
PACKAGE: Final = "mysql-server-core"
SUITE: Final = "sid"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OS_RELEASE: Final = Path("/etc/os-release")
BY_HAND: Final = f"Set {ROOT_VARIABLE} to a folder in which usr/sbin/mysqld stands, or run with ENGINE=mariadb."
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
    found = Programs(Path(brought) if brought else ROOT)
    if not os.access(found.server, os.X_OK):
        if brought:
            raise StackError(f"{ROOT_VARIABLE} is {brought}, and there is no program {found.server}: correct it.")
        fetch(found.root)
    return found


def fetch(root: Path) -> None:
    """Fetch MySQL and unpack it to `root`.

    Raises:
        StackError: this system has no apt or no key of Debian's, or apt could not get the packages.
    """
    require_apt("MySQL", BY_HAND)
    if not os.access(KEYRING, os.R_OK):
        raise StackError(
            f"MySQL is missing, and its packages cannot be checked without {KEYRING}: install the package "
            f"debian-archive-keyring. {BY_HAND}"
        )
    sources = f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n"
    Unpacking("MySQL", PACKAGE, BY_HAND, lambda name: not name.startswith(NOT_NEEDED), sources).into(root)


def _mirror() -> str:
    """Return the mirror that this system takes its own release from: not updates, nor another party's packages."""
    release = _release()
    line_format = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--no-release-info", "--format", line_format, "Created-By: Packages"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        mirror, *rest = line.split()
        if rest == [release, "main"]:
            return mirror
    raise StackError(f"MySQL is missing, and apt has no source of {release!r} to take Debian's mirror from. {BY_HAND}")


def _release() -> str:
    lines = (line.partition("=") for line in OS_RELEASE.read_text().splitlines())
    return {name: value.strip('"') for name, _, value in lines}.get("VERSION_CODENAME", "")
