"""Find MariaDB's server programs, or get them: by apt, or unpacked below build/tools without any rights."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StackError
from harness.paths import TOOLS
from harness.stack.packages import can_install, find_program, install

# Without the package that would also start a server as a service of the machine.
PACKAGES = ("mariadb-server-core", "mariadb-client-core")
SHARED = "mariadb-common"
UNPACKED = TOOLS / "mariadb"
BY_HAND = f"Install MariaDB by hand and run this again: sudo apt-get install {' '.join(PACKAGES)}"


@dataclass(frozen=True, slots=True)
class Programs:
    """MariaDB's programs; `base` is the folder of their language and system-table files, None for the usual place."""

    server: Path
    installer: Path
    base: Path | None = None


def mariadb_programs() -> Programs:
    """Return MariaDB's programs, after installing them if they are missing.

    Raises:
        StackError: they are missing and cannot be installed; the message says how to get them.
    """
    found = _installed() or _unpacked()
    if found is None:
        if can_install():
            install(PACKAGES, wanted="MariaDB")
        else:
            _unpack()
        found = _installed() or _unpacked()
    if found is None:
        raise StackError(f"MariaDB's programs are still missing. {BY_HAND}")
    return found


def _installed() -> Programs | None:
    server, installer = find_program("mariadbd"), find_program("mariadb-install-db")
    return Programs(Path(server), Path(installer)) if server and installer else None


def _unpacked() -> Programs | None:
    base = UNPACKED / "usr"
    found = Programs(base / "sbin/mariadbd", base / "bin/mariadb-install-db", base)
    return found if os.access(found.server, os.X_OK) and os.access(found.installer, os.X_OK) else None


def _unpack() -> None:
    """Download the packages and unpack them below build/tools: needs apt's package lists, but no rights."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise StackError(f"MariaDB is missing, and this system has no apt to get it with. {BY_HAND}")
    print("Unpacking MariaDB below build/tools ...", flush=True)
    UNPACKED.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "-q", "download", *PACKAGES, SHARED])
    for package in sorted(UNPACKED.glob("*.deb")):
        _run(["dpkg", "-x", package.name, "."])
        package.unlink()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=UNPACKED, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"MariaDB is missing, and {command[0]} could not get it:\n{done.stderr.strip()}\n{BY_HAND}")
