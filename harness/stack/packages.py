"""Find the programs that the local stack needs, and install what is missing with apt."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from harness.errors import StackError

SERVER_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str) -> str | None:
    """Return the program's path, searched also in the servers' folders that a user's PATH may leave out."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SERVER_FOLDERS}")


def require_program(name: str, packages: Sequence[str]) -> str:
    """Return the program's path, after installing Debian `packages` if it is missing.

    Raises:
        StackError: it is missing and cannot be installed; the message says how to get it.
    """
    found = find_program(name)
    if found is None:
        install(packages, wanted=name)
        found = find_program(name)
    if found is None:
        raise StackError(f"{name} is still missing after installing {' '.join(packages)}")
    return found


def install(packages: Sequence[str], *, wanted: str) -> None:
    """Install Debian packages.

    Raises:
        StackError: this system has no apt, no right to install, or apt failed.
    """
    command = [*_apt_get(), "install", "-y", "--no-install-recommends", *packages]
    by_hand = f"Install it by hand and run this again: sudo apt-get install {' '.join(packages)}"
    if not can_install():
        raise StackError(f"{wanted} is missing, and this user may not install it. {by_hand}")
    print(f"Installing {' '.join(packages)} ...", flush=True)
    for attempt in ([*_apt_get(), "update", "-q"], command):
        done = subprocess.run(attempt, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0 and attempt is command:
            raise StackError(
                f"{wanted} is missing, and apt-get could not install it:\n{done.stderr.strip()}\n{by_hand}"
            )


def can_install() -> bool:
    """Return whether apt-get may install here: as root, by sudo without a password, or by asking at the terminal."""
    if shutil.which("apt-get") is None:
        return False
    if os.geteuid() == 0:
        return True
    if shutil.which("sudo") is None:
        return False
    without_password = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return without_password or sys.stdin.isatty()


def _apt_get() -> list[str]:
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    return quiet if os.geteuid() == 0 else ["sudo", *quiet]
