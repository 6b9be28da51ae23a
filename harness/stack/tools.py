"""Python tools in environments of their own, as uv.lock has them: they cannot leak into the functions."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from harness.errors import StackError
from harness.paths import ROOT, TOOLS

UV = TOOLS / "uv" / "bin" / "uv"
STAMP = ".synced-from"


def tool(group: str, program: str) -> Path:
    """Return a program of one of pyproject's dependency groups, after installing the group if it is not up to date.

    Raises:
        StackError: the group could not be installed.
    """
    environment = TOOLS / group
    wanted = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
    stamp = environment / STAMP
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {group} below build/tools ...", flush=True)
        _sync(group, environment)
        stamp.write_text(wanted)
    return environment / "bin" / program


def uv() -> str:
    """Return the pinned uv of the bootstrap, else whichever is on the PATH."""
    found = str(UV) if UV.exists() else shutil.which("uv")
    if found is None:
        raise StackError("uv is missing: run `make` targets rather than modules, they install it below build/tools")
    return found


def _sync(group: str, environment: Path) -> None:
    command = [uv(), "sync", "--locked", "--only-group", group, "--no-install-project", "--quiet"]
    variables = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"}
    variables.pop("VIRTUAL_ENV", None)
    done = subprocess.run(
        command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise StackError(f"{group} could not be installed:\n{done.stderr.decode(errors='replace').strip()}")
