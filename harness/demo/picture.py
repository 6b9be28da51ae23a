"""Draw a demo run: connections over time with and without the governor, each hold in its slot, and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.demo.figures import groups, headline
from harness.demo.slots import in_slots
from harness.demo.summary import label
from harness.demo.words import REFUSALS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from harness.demo.recording import Recording, Samples

REMAINING, DATABASE, REFUSED, REFUSED_BY_DATABASE = "#1f5fbf", "#e9a13b", "#e0574f", "#8f1414"
GOOD, INK, GREY, FAINT = "#237a4b", "#1f2328", "#57606a", "#c9d1d9"
VERDICTS = {"good": GOOD, "bad": REFUSED_BY_DATABASE, "plain": INK}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "connection-governor",
}
SIZE_INCHES = (14.0, 10.5)
CHART_INCHES = (14.0, 7.6)
HEADROOM = 1.36  # above the budget, for words
SECOND = 1000
BIN_MS = 250
BUDGET_LINE: Any = (0, (6, 3))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A run and its figures, to draw from; times become seconds since the load began."""

    recording: Recording
    summary: dict[str, Any]

    def seconds(self, at_ms: float) -> float:
        """Return a time in seconds."""
        return (at_ms - self.recording.governed.from_ms) / SECOND

    def points(self, samples: Samples) -> tuple[list[float], list[float]]:
        """Return the samples from the load's start on, as seconds and values."""
        shown = [(self.seconds(at_ms), value) for at_ms, value in samples if at_ms >= self.recording.governed.from_ms]
        return [at for at, _ in shown], [value for _, value in shown]

    @property
    def change(self) -> float:
        """When the part without the governor begins."""
        return self.seconds(self.recording.ungoverned.from_ms)

    @property
    def end(self) -> float:
        """The end of the time axis."""
        return self.seconds(self.recording.ungoverned.to_ms)


def draw(recording: Recording, summary: dict[str, Any], path: Path) -> None:
    """Draw the whole picture, with title and figures, into a file; its name says the format (.png, .svg)."""
    drawing = Drawing(recording, summary)
    with mpl.rc_context(STYLE):
        figure, panels = _panels(SIZE_INCHES, [5, 2.7, 2], {"top": 0.865, "bottom": 0.02, "hspace": 0.3})
        _title(figure, drawing)
        _connections(panels[0], drawing)
        _holds(panels[1], drawing)
        _table(panels[2], drawing)
        figure.savefig(path, dpi=120)


def draw_chart(recording: Recording, summary: dict[str, Any], path: Path) -> None:
    """Draw only what happened over time, for a page that has the words itself."""
    drawing = Drawing(recording, summary)
    with mpl.rc_context(STYLE):
        figure, panels = _panels(CHART_INCHES, [5, 2.7], {"top": 0.955, "bottom": 0.06, "hspace": 0.25})
        _connections(panels[0], drawing)
        _holds(panels[1], drawing)
        figure.savefig(path)


def _panels(size: tuple[float, float], heights: list[float], room: dict[str, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels below each other; those that show time come first and share one axis."""
    figure = Figure(figsize=size, facecolor="white")
    figure.subplots_adjust(left=0.055, right=0.945, **room)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    first = figure.add_subplot(grid[0])
    second = figure.add_subplot(grid[1], sharex=first)
    return figure, [first, second, *(figure.add_subplot(grid[n]) for n in range(2, len(heights)))]


def _title(figure: Figure, drawing: Drawing) -> None:
    title, subtitle = headline(drawing.summary, drawing.recording.concurrency)
    figure.text(0.055, 0.955, title, fontsize=20, fontweight="bold")
    figure.text(0.055, 0.925, subtitle, fontsize=12, color=GREY)


def _connections(axes: Axes, drawing: Drawing) -> None:
    allowed = drawing.recording.allowed
    axes.axvspan(drawing.change, drawing.end, color=REFUSED, alpha=0.08, linewidth=0)
    _database_count(axes, drawing)
    axes.step(*drawing.points(remaining_over_time(drawing.recording)), where="post", color=REMAINING, linewidth=2)
    axes.axhline(allowed, color=INK, linewidth=1.2, linestyle=BUDGET_LINE)
    axes.annotate(f"budget {allowed}", (0, allowed), (5, 3), textcoords="offset points", fontsize=9.5)
    axes.set_ylim(0, allowed * HEADROOM)
    axes.set_xlim(0, drawing.end)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("Remaining Connections", color=REMAINING)
    _refusals(axes.twinx(), drawing)
    _refused_by_database(axes, drawing)
    _without_governor(axes, drawing)
    _marks(axes, drawing)
    _legend(axes, label(drawing.summary))


def _database_count(axes: Axes, drawing: Drawing) -> None:
    times, counts = drawing.points(drawing.recording.mysql_sessions)
    axes.fill_between(times, counts, step="post", color=DATABASE, alpha=0.3, linewidth=0)
    axes.step(times, counts, where="post", color=DATABASE, linewidth=0.7)


def remaining_over_time(recording: Recording) -> Samples:
    """Return the lowest remaining count of each quarter of a second, of the emitted metric and of the table."""
    samples = list(recording.remaining) + [(at_ms, recording.allowed - lent) for at_ms, lent in recording.lent]
    lowest: dict[int, float] = {}
    for at_ms, left in samples:
        if recording.governed.from_ms <= at_ms < recording.ungoverned.from_ms:
            lowest[at_ms // BIN_MS] = min(left, lowest.get(at_ms // BIN_MS, left))
    return [(number * BIN_MS, left) for number, left in sorted(lowest.items())]


def _refusals(right: Axes, drawing: Drawing) -> None:
    """Draw the governor's refusals in each second."""
    counts = _each_second(drawing, drawing.recording.refusals)
    right.bar([second + 0.5 for second in counts], list(counts.values()), width=0.8, color=REFUSED, alpha=0.75)
    right.set_ylim(0, max([*counts.values(), 4]) * HEADROOM * 1.8)
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_ylabel("No Connections Left, per second", color=REFUSED)
    right.spines["right"].set_visible(True)


def _refused_by_database(axes: Axes, drawing: Drawing) -> None:
    """Draw each refusal by the database itself as a stroke above the budget."""
    recording = drawing.recording
    times = [
        drawing.seconds(at_ms) for at_ms in recording.governed.mysql_refused_ms + recording.ungoverned.mysql_refused_ms
    ]
    axes.vlines(times, recording.allowed * 1.02, recording.allowed * 1.1, color=REFUSED_BY_DATABASE, linewidth=0.8)


def _each_second(drawing: Drawing, samples: Samples) -> dict[int, float]:
    counts: dict[int, float] = {}
    for at, value in zip(*drawing.points(samples), strict=True):
        counts[int(at)] = counts.get(int(at), 0) + value
    return counts


def _without_governor(axes: Axes, drawing: Drawing) -> None:
    without, high = drawing.summary["without_governor"], drawing.recording.allowed * HEADROOM
    refused = f"{without['mysql_refused_1040']} of {without['invocations']}"
    axes.text(
        *(drawing.end * 0.995, high * 0.985),
        f"without: {label(drawing.summary)} refuses\n{refused} workers\n({REFUSALS[drawing.recording.engine]})",
        va="top",
        ha="right",
        fontweight="bold",
        color=REFUSED_BY_DATABASE,
    )


def _marks(axes: Axes, drawing: Drawing) -> None:
    recording, high = drawing.recording, drawing.recording.allowed * HEADROOM * 0.985
    if recording.crashed_at_ms is None:
        return
    crash = drawing.seconds(recording.crashed_at_ms)
    axes.axvline(crash, color=INK, linewidth=1.3)
    axes.plot([crash], [recording.allowed], marker="X", color=INK, markersize=10)
    killed = f"{recording.killed} workers" if recording.killed > 1 else "1 worker"
    axes.text(crash + 0.4, high, f"{killed} killed\nholding a connection", va="top")
    if recording.full_again_at_ms is None:
        return
    full = drawing.seconds(recording.full_again_at_ms)
    axes.axvline(full, color=GOOD, linewidth=1.3)
    took = drawing.summary["seconds_to_full_capacity_after_crash"]
    axes.text(full - 0.4, high, f"full budget again\nafter {took:.1f} s", va="top", ha="right", color=GOOD)


def _legend(axes: Axes, engine: str) -> None:
    handles = [
        Patch(color=REMAINING, label="Remaining Connections (left)"),
        Patch(color=DATABASE, alpha=0.5, label=f"{engine}'s own count of them in use (left)"),
        Patch(color=REFUSED, alpha=0.75, label="No Connections Left: refused by the governor (right)"),
        Patch(color=REFUSED_BY_DATABASE, alpha=0.75, label=f"refused by {engine}, each"),
    ]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.008, 1.0), ncols=4, frameon=False, fontsize=9.5)


def _holds(axes: Axes, drawing: Drawing) -> None:
    """Draw each hold as a bar in the lowest free slot; a killed worker's lease continues to its expiry, hatched."""
    slots = drawing.recording.allowed
    for hold, slot in in_slots(drawing.recording.ungoverned.holds):
        start, end = drawing.seconds(hold.from_ms), drawing.seconds(hold.to_ms)
        axes.barh(slot + 0.5, end - start, left=start, height=0.76, color=DATABASE, edgecolor="white", linewidth=0.6)
    axes.axvspan(drawing.change, drawing.end, color=REFUSED, alpha=0.08, linewidth=0)
    for hold, slot in in_slots(drawing.recording.governed.holds):
        start, end = drawing.seconds(hold.from_ms), drawing.seconds(hold.to_ms)
        if hold.crashed and hold.lease_ends_ms:
            rest = drawing.seconds(hold.lease_ends_ms) - end
            axes.barh(slot + 0.5, rest, left=end, height=0.76, facecolor="white", edgecolor=FAINT, hatch="////")
            axes.plot([end], [slot + 0.5], marker="X", color=INK, markersize=8, zorder=3)
        axes.barh(slot + 0.5, end - start, left=start, height=0.76, color=REMAINING, edgecolor="white", linewidth=0.6)
    axes.axhline(slots, color=INK, linewidth=1.2, linestyle=BUDGET_LINE)
    axes.set_ylim(0, slots * 1.06)
    axes.set_yticks([])
    axes.set_ylabel(f"{slots} slots", color=REMAINING)
    axes.set_xlabel("seconds", loc="right", color=GREY, labelpad=-2)
    words = "Each hold, as its worker reports it.  ✕ killed; hatched: the dead worker's lease until it expires"
    axes.set_title(words, fontsize=10.5, loc="left", color=GREY)


def _table(axes: Axes, drawing: Drawing) -> None:
    axes.axis("off")
    columns = ((0.0, 0.235), (0.275, 0.475), (0.515, 0.785), (0.825, 1.0))
    for (left, right), group in zip(columns, groups(drawing.summary), strict=True):
        axes.text(left, 0.96, group.heading, fontsize=11, fontweight="bold", va="top", transform=axes.transAxes)
        for line, row in enumerate(group.rows):
            y = 0.78 - line * 0.145
            axes.text(left, y, row.name, va="top", color=GREY, transform=axes.transAxes)
            color = VERDICTS[row.verdict]
            axes.text(right, y, row.value, va="top", ha="right", color=color, transform=axes.transAxes)
