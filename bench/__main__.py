"""Run the benchmarks: `python -m bench [--quick] [NAME ...]`; write results.json, and the README's tables from it."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.measure import FULL, TINY
from bench.results import Row

FOLDER = Path(__file__).parent
BENCHMARKS = (
    "direct",
    "peers",
    "lambda_transport",
    "cold_start",
    "connections",
    "overload",
    "sharding",
    "cost",
    "opening_rate",
)
RESULTS = FOLDER / "results.json"
README = FOLDER / "README.md"
START, END = "<!-- results: written by `make bench` -->", "<!-- end of results -->"


def main() -> None:
    """Run the named benchmarks (default: all), and keep the others' last results."""
    asked = _arguments()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in asked.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        rows = []
        for row in import_module(f"bench.{name}").rows(TINY if asked.quick else FULL):
            print(row.line(), flush=True)
            rows.append(row)
        results[name] = _dated(rows)
        if not asked.quick:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            write_tables(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="run each once, small, and write nothing")
    return parser.parse_args()


def _dated(rows: list[Row]) -> dict[str, Any]:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine,
        "rows": [asdict(row) for row in rows],
    }


def write_tables(results: dict[str, Any]) -> None:
    """Put these results between the README's marks."""
    text = README.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    tables = "\n".join(_table(name, results[name]) for name in BENCHMARKS if name in results)
    README.write_text(f"{before}{START}\n{tables}\n{END}{after}")


def _table(name: str, result: dict[str, Any]) -> str:
    head = f"\n### {name}\n\n{result['date']}, {result['machine']}\n"
    lines = [Row(**row).line() for row in result["rows"]]
    return "\n".join([head, "| figure | measured | target | reached |", "| --- | --- | --- | --- |", *lines])


if __name__ == "__main__":
    main()
