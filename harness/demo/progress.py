"""Show a run's progress: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

PLAIN_EACH_S = 2.0
HISTORY = 60
BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Figures:
    """A load's figures at one moment."""

    engine: str
    what: str
    done: int
    asked: int
    allowed: int
    remaining: int
    refused: int
    sessions: int
    acquire_ms: float | None

    def words(self) -> str:
        """Return the figures as one line of text."""
        latency = "-" if self.acquire_ms is None else f"{self.acquire_ms:.0f} ms"
        return (
            f"{self.what}: {self.done}/{self.asked} done, {self.remaining} of {self.allowed} remaining, "
            f"{self.engine} counts {self.sessions}, {self.refused} refused, acquire p50 {latency}"
        )


class Progress(Protocol):
    """Shows a run's progress; a context manager."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def step(self, words: str) -> None:
        """Show that the next step begins."""

    def show(self, figures: Figures) -> None:
        """Show the figures of this moment; called often."""


class PlainLines:
    """For logs and pipes: each step, and the figures every other second."""

    def __init__(self) -> None:
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo nothing."""

    def step(self, words: str) -> None:
        """Print the step."""
        print(words, flush=True)

    def show(self, figures: Figures) -> None:
        """Print the figures, unless some were printed just now."""
        if time.monotonic() - self._shown_at >= PLAIN_EACH_S:
            self._shown_at = time.monotonic()
            print(f"  {figures.words()}", flush=True)


class LivePanel:
    """For a terminal: steps scroll by; below them a bar, the figures and the database's count over time, in place."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, transient=True, refresh_per_second=8)
        self._history: deque[int] = deque(maxlen=HISTORY)

    def __enter__(self) -> Self:
        """Reserve the terminal's last lines."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the terminal."""
        self._live.stop()

    def step(self, words: str) -> None:
        """Print the step above the panel."""
        self._console.print(f"[bold]▸[/bold] {words}", highlight=False)

    def show(self, figures: Figures) -> None:
        """Draw the panel anew."""
        self._history.append(figures.sessions)
        history = Text(f"{figures.engine} {sparkline(self._history, figures.allowed)}")
        self._live.update(Group(_bar(figures), _table(figures), history))


def sparkline(counts: deque[int], top: int) -> str:
    """Return counts as a row of blocks, `top` as a full one."""
    return "".join(BLOCKS[min(len(BLOCKS) - 1, round(count / top * (len(BLOCKS) - 1)))] for count in counts)


def _bar(figures: Figures) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(figures.what, ProgressBar(figures.asked, figures.done, width=40), f"{figures.done}/{figures.asked}")
    return row


def _table(figures: Figures) -> Table:
    table = Table.grid(padding=(0, 3))
    latency = "-" if figures.acquire_ms is None else f"{figures.acquire_ms:.0f} ms"
    table.add_row(
        f"remaining [bold]{figures.remaining}[/bold] of {figures.allowed}",
        f"{figures.engine} counts [bold]{figures.sessions}[/bold]",
        f"refused [bold red]{figures.refused}[/bold red]",
        f"acquire p50 [bold]{latency}[/bold]",
    )
    return table


def progress_for(stream: object = None) -> Progress:
    """Return a live panel if the output is a terminal, else plain lines."""
    output = sys.stdout if stream is None else stream
    return LivePanel() if getattr(output, "isatty", lambda: False)() else PlainLines()
