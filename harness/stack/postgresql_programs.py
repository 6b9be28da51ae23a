"""Find PostgreSQL's server programs, or fetch those of this system's own release below build/tools.

Installing Debian's package would make a cluster and start it as a service of the machine: so nothing is installed.
"""

import ctypes.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.paths import TOOLS
from harness.stack.packages import install
from harness.stack.unpacked import Unpacking

INSTALLED: Final = Path("/usr/lib/postgresql")
ROOT: Final = TOOLS / "postgresql" / "root"
LEAST: Final = 14  # the first with idle_session_timeout and client_connection_check_interval
BY_HAND: Final = "Install PostgreSQL by hand and run this again: sudo apt-get install postgresql"
# The libc must be the system's, which the programs of the same release fit. LLVM is for the compiler of queries.
NOT_NEEDED: Final = ("libc6", "libc-", "libllvm", "libperl", "postgresql-client-common", "postgresql-common")


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, and the root of the unpacked tree that holds them, or None if they are installed."""

    folder: Path
    tree: Path | None = None

    def moved(self, tree: Path) -> "Programs":
        """Return the programs of a copy of the tree."""
        assert self.tree is not None
        return Programs(tree / self.folder.relative_to(self.tree), tree)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that they run in: with the tree's libraries, and in no language but English."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        if self.tree is not None:
            variables["LD_LIBRARY_PATH"] = str(self.tree / "usr/lib" / f"{os.uname().machine}-linux-gnu")
        return variables


def postgresql_programs() -> Programs:
    """Return PostgreSQL's programs and make sure of libpq, which psycopg loads; get what is missing.

    Raises:
        StackError: something is missing and cannot be had; the message says how to get it.
    """
    if ctypes.util.find_library("pq") is None:
        install(["libpq5"], wanted="PostgreSQL's library for clients, libpq")
    found = _newest(INSTALLED)
    if found is not None:
        return Programs(found)
    if _newest(ROOT / "usr/lib/postgresql") is None:
        Unpacking("PostgreSQL", "postgresql", BY_HAND, _wanted).into(ROOT)
    folder = _newest(ROOT / "usr/lib/postgresql")
    assert folder is not None
    return Programs(folder, ROOT)


def _newest(folder: Path) -> Path | None:
    versions = sorted((int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit()), reverse=True)
    for version in versions:
        programs = folder / str(version) / "bin"
        if version >= LEAST and all(os.access(programs / name, os.X_OK) for name in ("postgres", "initdb")):
            return programs
    return None


def _wanted(archive: str) -> bool:
    return archive.startswith(("lib", "postgresql-")) and not archive.startswith(NOT_NEEDED)
