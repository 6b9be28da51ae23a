"""Lighten the layer with PostgreSQL's driver for this machine: the local AWS unpacks it for each cold environment."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

LAYER = "PostgresqlLayer"
_MACHINE = slice(18, 20)  # where an ELF file names its processor


def keep_what_runs_here(built: Path) -> None:
    """Remove the compiled files for other Pythons and processors from a built layer; sam's cache keeps them."""
    here = Path(sys.executable).resolve().read_bytes()[_MACHINE]
    for path in (built / LAYER).rglob("*.so*"):
        if ".cpython-" in path.name:
            fits = path.name.endswith(sysconfig.get_config_var("EXT_SUFFIX"))
        else:
            fits = path.read_bytes()[_MACHINE] == here
        if not fits:
            path.unlink()
