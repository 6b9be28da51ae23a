"""The command `governor`: shows leases and changes budgets."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from connection_governor.core.status import status_report
from connection_governor.errors import GovernorError
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.core.clock import Clock
    from connection_governor.core.operations import Operations

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it
    Run = Callable[[Operations, argparse.Namespace], None]

_DESCRIPTION = """\
Shows and changes the connections that the governor grants.

  governor status orders            the leases, and the connections left
  governor watch orders             the same, every second, until Ctrl-C
  governor set-budget orders 50     allow 50 connections (creates the database's items, or changes them)
  governor reclaim orders           remove expired leases now (an acquire also takes them over)

Lowering a budget disconnects no session: it stops new grants until enough connections have come back."""

_LONGEST_PAUSE_S = 3_600
_LEASE_HELP = "length of a lease if a caller of the function names none (the Python client: 30,000)"

_EPILOG = """\
environment: GOVERNOR_TABLE (the stack's output TableName), AWS_REGION, AWS credentials as for the AWS CLI,
AWS_ENDPOINT_URL for a local stack. Exit status: 0 done, 1 the governor or DynamoDB refused or failed, 2 wrong usage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 done, 1 the governor refused or failed. Wrong usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        variables = dict(Environment.current().variables)
        if options.table:
            variables["GOVERNOR_TABLE"] = options.table
        options.run(operations(Environment(variables)), options)
    except GovernorError as error:
        print(f"governor: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    except OSError as error:  # such as a full disk behind the output
        print(f"governor: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("governor", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "status", _status, "the leases and their holders, exact as of the read")
    watch = _command(commands, "watch", _watch, "status again and again, until Ctrl-C")
    watch.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="pause between reads (default 1)")
    budget = _command(commands, "set-budget", _set_budget, "allow so many connections")
    budget.add_argument("allowed", type=int, help="how many connections may be in use at once")
    budget.add_argument("--shards", type=int, help="items to split the budget among (default: one per 36 connections)")
    budget.add_argument("--lease-ms", type=int, help=_LEASE_HELP)
    budget.add_argument("--skew-ms", type=int, help="how far any two clocks that write leases may differ")
    budget.add_argument("--anonymous-lease-ms", type=int, help="length of leases taken with the published payload")
    _command(commands, "reclaim", _reclaim, "remove expired leases")
    return parser


def _command(commands: Commands, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("database", help="the governed database's name")
    command.add_argument("--table", help="the DynamoDB table (default: GOVERNOR_TABLE)")
    command.add_argument("--json", action="store_true", help="print JSON for other programs")
    command.set_defaults(run=run)
    return command


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST_PAUSE_S:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most {_LONGEST_PAUSE_S}")
    return seconds


def _status(operations: Operations, options: argparse.Namespace) -> None:
    _show(status_report(operations.status(options.database)), options)


def _watch(operations: Operations, options: argparse.Namespace, clock: Clock = SYSTEM_CLOCK) -> None:
    while True:
        if sys.stdout.isatty():
            _print("\033[2J\033[H", end="")
        _status(operations, options)
        sys.stdout.flush()
        clock.sleep(options.every)


def _set_budget(operations: Operations, options: argparse.Namespace) -> None:
    status = operations.set_budget(
        options.database,
        options.allowed,
        shards=options.shards,
        lease_ms=options.lease_ms,
        skew_ms=options.skew_ms,
        anonymous_lease_ms=options.anonymous_lease_ms,
    )
    _show(status_report(status), options)
    if not options.json:
        limit = f"MAX_USER_CONNECTIONS {options.allowed}"
        _print(f"MySQL's own limit did not change: for each governed user, ALTER USER ... WITH {limit}")


def _reclaim(operations: Operations, options: argparse.Namespace) -> None:
    reclaimed = operations.reclaim(options.database)
    if options.json:
        _print(json.dumps([{"lease_id": lease.lease_id, "holder": lease.holder} for lease in reclaimed]))
        return
    _print(f"{len(reclaimed)} expired lease(s) reclaimed")
    _status(operations, options)


def _show(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        _print(json.dumps(report))
        return
    _print("\n".join(status_lines(report, now_ms=SYSTEM_CLOCK.now_ms())))


def status_lines(report: dict[str, Any], *, now_ms: int) -> list[str]:
    """Return a status for people: totals, leases by expiry, and hints."""
    allowed, in_use = report["allowed"], report["in_use"]
    lines = [f"{report['database']}: {in_use} of {allowed} connections in use, {report['remaining']} left"]
    if not report["settled"]:
        lines.append("a budget change waits for leases to come back; the janitor finishes it")
    if report["remaining"] < 0:
        lines.append("more is in use than the lowered budget allows: nothing is granted until enough has come back")
    if report["leases"]:
        lines += ["", f"{'lease':<16}  {'holder':<8}  {'connections':>11}  {'shard':>5}  expires"]
    lines += [_lease_line(lease, now_ms) for lease in report["leases"]]
    return lines


def _lease_line(lease: dict[str, Any], now_ms: int) -> str:
    left_s = (lease["expires_at_ms"] - now_ms) / 1_000
    ends = f"in {left_s:.1f} s" if left_s >= 0 else f"{-left_s:.1f} s ago: the next acquire that needs it takes it over"
    holder = lease["holder"] or "(anon)"
    return f"{lease['lease_id']:<16}  {holder:<8}  {lease['connections']:>11}  {lease['shard']:>5}  {ends}"


def _print(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)


if __name__ == "__main__":
    sys.exit(main())
