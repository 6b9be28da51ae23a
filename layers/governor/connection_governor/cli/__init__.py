"""The command `governor`, for operators."""

from connection_governor.cli.main import main

__all__ = ["main"]
