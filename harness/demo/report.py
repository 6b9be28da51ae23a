"""Write a run's report: `report.png`, and `report.html`, which needs no other file."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from harness.demo.figures import Group, groups, headline
from harness.demo.picture import draw, draw_chart
from harness.demo.summary import label
from harness.demo.words import LAST_LINE

if TYPE_CHECKING:
    from pathlib import Path

    from harness.demo.recording import Recording

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1f2328;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.05rem;margin:0 0 .4rem}
.sub{color:#57606a;margin:.3rem 0 1rem}svg{width:100%;height:auto}
.verdict{padding:.6rem 1rem;border-radius:.4rem;font-weight:600;background:#e3f4ea;color:#237a4b}
.verdict.bad{background:#fbe4e3;color:#8f1414}
.groups{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:1.5rem 2.5rem;margin:1.5rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem}td{padding:.2rem 0;border-bottom:1px solid #eaeef2}
td+td{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.good{color:#237a4b}.bad{color:#8f1414}
dt{font-weight:600;margin-top:.6rem}dd{margin:0;color:#57606a}
"""
HOW_TO_READ = """
<dt>Remaining Connections (blue)</dt>
<dd>The rest of the budget: from the metric that the functions write to their logs and, while no function runs,
from the lease table.</dd>
<dt>{engine}'s own count (orange)</dt>
<dd>The workers' sessions, counted by {engine} itself fifty times a second. The workers' database user may hold no more
connections than the budget. {last_line}</dd>
<dt>No Connections Left (red)</dt>
<dd>Workers that waited for a connection and were refused by the governor, with a time to retry.</dd>
<dt>The slots</dt>
<dd>Each bar is one worker's hold of a connection, as the worker reported it. Over-granting is judged by these reports,
never by the governor's own counter.</dd>
<dt>The crash</dt>
<dd>SIGKILL ends worker processes that hold a connection, as {engine} shows them: no clean-up code runs. Their
slots come back only when their leases expire; the janitor is off. The clock stops when the whole budget is
granted at once.</dd>
<dt>Without the governor</dt>
<dd>The same load from the same seed connects without asking. {engine} refuses connections above the budget, and workers
fail.</dd>
"""


def write_report(recording: Recording, summary: dict[str, Any], broken: list[str], folder: Path) -> None:
    """Write both files.

    Args:
        recording: the run.
        summary: its figures.
        broken: the promises that did not hold, in words.
        folder: where to.
    """
    draw(recording, summary, folder / "report.png")
    chart = folder / "chart.svg"
    draw_chart(recording, summary, chart)
    (folder / "report.html").write_text(_page(recording, summary, broken, chart.read_text()))
    chart.unlink()


def _page(recording: Recording, summary: dict[str, Any], broken: list[str], svg: str) -> str:
    how_to_read = HOW_TO_READ.format(engine=label(summary), last_line=LAST_LINE[recording.engine])
    title, subtitle = (html.escape(words) for words in headline(summary, recording.concurrency))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1><p class="sub">{subtitle}</p>
{_verdict(broken)}
{svg[svg.index("<svg") :]}
<div class="groups">{"".join(_group(group) for group in groups(summary))}</div>
<h2>How to read it</h2><dl>{how_to_read}</dl>
</body></html>
"""


def _verdict(broken: list[str]) -> str:
    if not broken:
        return '<p class="verdict">Every promise held.</p>'
    listed = "; ".join(html.escape(promise) for promise in broken)
    return f'<p class="verdict bad">Not every promise held: {listed}.</p>'


def _group(group: Group) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(row.name)}</td><td class="{row.verdict}">{html.escape(row.value)}</td></tr>'
        for row in group.rows
    )
    return f"<section><h2>{html.escape(group.heading)}</h2><table>{rows}</table></section>"
