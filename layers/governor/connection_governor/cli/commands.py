"""The command `governor`: shows leases and changes budgets."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from connection_governor.aws.invoke import FunctionCaller
from connection_governor.cli import janitor_function
from connection_governor.core.checks import MAX_LEASE_MS
from connection_governor.core.operations import check_budget
from connection_governor.core.status import status_report
from connection_governor.errors import GovernorError, InvalidRequest, UnknownDatabase
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring import Environment
from connection_governor.wiring.table import operations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connection_governor.cli.janitor_function import JanitorCall
    from connection_governor.core.clock import Clock
    from connection_governor.core.operations import Operations

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it
    Run = Callable[[Operations, argparse.Namespace], None]

_DESCRIPTION = """\
Shows and changes the connections that the governor grants.

  governor status orders            the leases, and the connections left
  governor watch orders             the same, every second, until Ctrl-C
  governor set-budget orders 50     allow 50 connections (creates the database's items, or changes them)
  governor adopt orders 50          the same for a restored table, after the leases that the backup lacks
  governor reclaim orders           remove expired leases now (an acquire also takes them over)
  governor sessions orders          what the server lists, through the janitor function
  governor kill orders --lease ID   end the sessions of one lease there (or --session N)
  governor limit orders 80          set the server's own limit of the seeded worker's user there

Lowering a budget disconnects no session: it stops new grants until enough connections have come back."""

_LONGEST_PAUSE_S = 3_600
_LEASE_HELP = "length of a lease if a caller of the function names none (the Python client: 30,000)"

_SERVER_LIMIT_HELP = "the server's max_connections, which this command cannot ask for: refuse a budget above it"
_RATE_HELP = "grant at most R connections in a second across the fleet (0: no limit)"
_BURST_HELP = "with --opens-per-second: grant up to B more at once (default: a second's worth beside the least)"
_LONGEST_LEASE_HELP = "how long a lease granted since the backup may last (default: the longest there is, an hour)"

_EPILOG = """\
environment: GOVERNOR_TABLE (the stack's output TableName), GOVERNOR_JANITOR (its output JanitorFunctionName, for
sessions, kill and limit), AWS_REGION, AWS credentials as for the AWS CLI, AWS_ENDPOINT_URL for a local stack.
Exit status: 0 done, 1 the governor, DynamoDB or the database refused or failed, 2 wrong usage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0 done, 1 the governor refused or failed. Wrong usage exits with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(_reached(options), options)
    except GovernorError as error:
        print(f"governor: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    except OSError as error:  # such as a full disk behind the output
        print(f"governor: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        return 1
    return 0


def _reached(options: argparse.Namespace) -> Operations | JanitorCall:
    """Return the command's target: the table, or the janitor function."""
    variables = dict(Environment.current().variables)
    if options.by_function:
        if options.function:
            variables["GOVERNOR_JANITOR"] = options.function
        return janitor_function.janitor_call(function_caller(Environment(variables)))
    if options.table:
        variables["GOVERNOR_TABLE"] = options.table
    return operations(Environment(variables))


def function_caller(environment: Environment) -> Callable[[bytes], tuple[bytes, str | None]]:
    """Return the caller of the janitor function."""
    function = environment.required("GOVERNOR_JANITOR")
    return FunctionCaller(environment.endpoint("lambda", read_timeout_s=janitor_function.TIMEOUT_S), function)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("governor", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "status", _status, "the leases and their holders, exact as of the read")
    watch = _command(commands, "watch", _watch, "status again and again, until Ctrl-C")
    watch.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="pause between reads (default 1)")
    budget = _budget_command(commands, "set-budget", _set_budget, "allow so many connections")
    budget.add_argument("--lease-ms", type=int, help=_LEASE_HELP)
    budget.add_argument("--skew-ms", type=int, help="how far any two clocks that write leases may differ")
    budget.add_argument("--anonymous-lease-ms", type=int, help="length of leases taken with the published payload")
    budget.add_argument("--opens-per-second", type=int, metavar="R", help=_RATE_HELP)
    budget.add_argument("--burst", type=int, dest="open_burst", metavar="B", help=_BURST_HELP)
    adopt = _budget_command(
        commands, "adopt", _adopt, "close a restored database, wait for unknown leases, set a budget"
    )
    adopt.add_argument("--longest-lease-ms", type=int, default=MAX_LEASE_MS, help=_LONGEST_LEASE_HELP)
    _command(commands, "reclaim", _reclaim, "remove expired leases")
    _by_function(
        commands, "sessions", janitor_function.sessions, "the governed users' sessions as the server lists them"
    )
    kill = _by_function(commands, "kill", janitor_function.kill, "end a session in the database")
    which = kill.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", type=int, help="its number, as `governor sessions` shows it")
    which.add_argument("--lease", help="the lease that it was opened under")
    limit = _by_function(
        commands, "limit", janitor_function.limit, "set the server's limit of the seeded worker's user"
    )
    limit.add_argument("connections", type=int, help="how many connections it may hold; the budget at least")
    return parser


def _by_function(
    commands: Commands, name: str, run: Callable[[JanitorCall, argparse.Namespace], list[str]], summary: str
) -> argparse.ArgumentParser:
    command = _added(commands, name, summary)
    command.add_argument("--function", help="the janitor function (default: GOVERNOR_JANITOR)")
    command.set_defaults(run=lambda call, options: _print("\n".join(run(call, options))), by_function=True)
    return command


def _command(commands: Commands, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    command = _added(commands, name, summary)
    command.add_argument("--table", help="the DynamoDB table (default: GOVERNOR_TABLE)")
    command.set_defaults(run=run, by_function=False)
    return command


def _added(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("database", help="the governed database's name")
    command.add_argument("--json", action="store_true", help="print JSON for other programs")
    return command


def _budget_command(commands: Commands, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    command = _command(commands, name, run, summary)
    command.add_argument("allowed", type=int, help="how many connections may be in use at once")
    command.add_argument("--shards", type=int, help="items to split the budget among (default: one per 36 connections)")
    command.add_argument("--server-limit", type=int, metavar="N", help=_SERVER_LIMIT_HELP)
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
    lengths = {"lease_ms": options.lease_ms, "skew_ms": options.skew_ms}
    lengths["anonymous_lease_ms"] = options.anonymous_lease_ms
    lengths |= {"opens_per_second": options.opens_per_second, "open_burst": options.open_burst}
    allowed, before = options.allowed, _checked_budget_before(operations, options, **lengths)
    alter = _alter_user(allowed, before)
    if before is None or allowed > before:
        _advise(f"The database does not know of budgets. Raise its limit first: {alter}", options)
    status = operations.set_budget(options.database, allowed, shards=options.shards, **lengths)
    _show(status_report(status), options)
    if before is not None and allowed < before:
        _advise(f"When no more than {allowed} are in use, lower the database's limit: {alter}", options)


def _adopt(operations: Operations, options: argparse.Namespace) -> None:
    _checked_budget_before(operations, options)
    seconds = options.longest_lease_ms / 1_000
    _advise(f"{options.database} is closed for {seconds:.0f} s, until leases that the backup lacks have ended", options)
    try:
        status = operations.adopt(
            options.database, options.allowed, longest_lease_ms=options.longest_lease_ms, shards=options.shards
        )
    except KeyboardInterrupt:
        raise GovernorError(f"stopped: {options.database} stays closed until adopt has run to its end") from None
    _show(status_report(status), options)


def _checked_budget_before(operations: Operations, options: argparse.Namespace, **lengths: int | None) -> int | None:
    """Return the present budget, None if there is none; refuse impossible values before any advice is printed."""
    check_budget(options.database, options.allowed, shards=options.shards, **lengths)
    if options.server_limit is not None and options.allowed > options.server_limit:
        raise InvalidRequest("allowed", f"must be at most {options.server_limit}, which is what the server takes")
    try:
        return operations.status(options.database).settings.allowed
    except UnknownDatabase:
        return None


def _alter_user(allowed: int, before: int | None) -> str:
    """Return the statements that limit a worker's user to the budget. MySQL takes a limit of 0 for no limit at all."""
    if allowed == 0:
        on_mysql = "ALTER USER ... ACCOUNT LOCK (MAX_USER_CONNECTIONS 0 would lift the limit)"
        return f"{on_mysql}, or on PostgreSQL: ALTER ROLE ... NOLOGIN"
    on_mysql = f"ALTER USER ... WITH MAX_USER_CONNECTIONS {allowed}" + (" ACCOUNT UNLOCK" if before == 0 else "")
    return f"{on_mysql}, or on PostgreSQL: ALTER ROLE ... {'LOGIN ' if before == 0 else ''}CONNECTION LIMIT {allowed}"


def _advise(advice: str, options: argparse.Namespace) -> None:
    """Print the advice at once, and only to people: the change may take long, or fail."""
    if not options.json:
        _print(advice)
        sys.stdout.flush()


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
    if any(shard["plan"] > report["plan"] for shard in report["shards"]):
        lines.append(
            "the shards follow a newer plan than the settings, which may come from a backup: set the budget again"
        )
    elif not report["settled"]:
        lines.append("a budget change waits for leases to come back; the janitor finishes it")
    if report["remaining"] < 0:
        lines.append("more is in use than the lowered budget allows: nothing is granted until enough has come back")
    if report.get("opens_per_second"):
        lines.append(_rate_line(report, now_ms))
    if report["leases"]:
        lines += ["", f"{'lease':<16}  {'holder':<8}  {'connections':>11}  {'shard':>5}  expires"]
    lines += [_lease_line(lease, now_ms) for lease in report["leases"]]
    return lines


def _rate_line(report: dict[str, Any], now_ms: int) -> str:
    ahead_ms = max((shard.get("opens_us", 0) // 1_000 - now_ms for shard in report["shards"]), default=0)
    line = f"opened at most {report['opens_per_second']} a second, with a burst of {report['open_burst']}"
    return f"{line}; callers wait up to {ahead_ms / 1_000:.1f} s for their turn" if ahead_ms > 0 else line


def _lease_line(lease: dict[str, Any], now_ms: int) -> str:
    left_s = (lease["expires_at_ms"] - now_ms) / 1_000
    ends = f"in {left_s:.1f} s" if left_s >= 0 else f"{-left_s:.1f} s ago: the next acquire that needs it takes it over"
    holder = lease["holder"] or "(anon)"
    return f"{lease['lease_id']:<16}  {holder:<8}  {lease['connections']:>11}  {lease['shard']:>5}  {ends}"


def _print(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)


if __name__ == "__main__":
    sys.exit(main())
