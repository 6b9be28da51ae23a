"""What a benchmark reports: rows with a target, written as JSON and as the README's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure with its target.

    Attributes:
        benchmark: the module that measured it.
        figure: what it is.
        target: what it should be, in words; "" if it is only reported.
        value: what it is.
        reached: whether the target is met; None if there is none.
        details: everything measured for it.
    """

    benchmark: str
    figure: str
    target: str
    value: str
    reached: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """Return the row as a line of a Markdown table."""
        mark = {True: "yes", False: "**no**", None: ""}[self.reached]
        return f"| {self.figure} | {self.value} | {self.target} | {mark} |"
