"""The sizes that a user may set on make's command line: read from the environment, with defaults and bounds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from harness.errors import StackError

ENGINES = ("mysql", "mariadb", "postgresql")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run.

    Attributes:
        allowed: the budget.
        iterations: how many invocations the demo makes.
        concurrency: how many of them at a time.
        seed: what the random draws start from.
        stack_port: the local AWS's port, or None for a free one.
        database_port: the database's port, or None for a free one.
        engine: which database server.
    """

    allowed: int = 10
    iterations: int = 300
    concurrency: int = 25
    seed: int = 7
    stack_port: int | None = None
    database_port: int | None = None
    engine: str = "mysql"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read `ALLOWED`, `ITERATIONS`, `CONCURRENCY`, `SEED`, `STACK_PORT`, `DATABASE_PORT` and `ENGINE`.

        Raises:
            StackError: a value is no whole number, out of bounds, or no engine's name; the message names it.
        """
        given = os.environ if environment is None else environment
        bounds = {
            "allowed": (1, 200),
            "iterations": (1, 100_000),
            "concurrency": (1, 100),  # each is a process of some 50 MB
            "seed": (0, 2**63 - 1),
            "stack_port": (1024, 65535),
            "database_port": (1024, 65535),
        }
        texts = {name: given.get(name.upper(), "").strip() for name in bounds}
        numbers = {name: _whole(name.upper(), text, *bounds[name]) for name, text in texts.items() if text}
        return cls(**numbers, engine=_engine(given.get("ENGINE", "").strip()))


def _engine(name: str) -> str:
    if name and name not in ENGINES:
        raise StackError(f"ENGINE must be one of {', '.join(ENGINES)}, not {name!r}")
    return name or ENGINES[0]


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise StackError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)
