"""The command `governor`, for operators."""

from connection_governor.cli.commands import main

__all__ = ["main"]
