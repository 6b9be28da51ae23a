"""The command line against a store in memory."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from connection_governor.cli import commands as cli
from connection_governor.core.engine import Engine
from connection_governor.core.lease import Wanted
from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Return a store that the command finds in place of the table."""
    store = MemoryStore()
    monkeypatch.setattr(cli, "operations", lambda _environment: Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY))
    return store


@pytest.fixture
def run(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command; return its exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def acquire(store: MemoryStore, lease_id: str, *, ends_in_ms: int) -> None:
    """Lend one connection of `orders` to `checkout`."""
    wanted = Wanted("orders", lease_id, "checkout/1", 1, SYSTEM_CLOCK.now_ms() + ends_in_ms)
    Engine(store, SYSTEM_CLOCK, SYSTEM_ENTROPY).acquire(wanted)


def test_a_budget_is_created_changed_and_shown(run: Callable[..., tuple[int, str, str]]) -> None:
    """Without it an operator could not set the first budget, or would not see what they set."""
    status, out, _ = run("set-budget", "orders", "50")
    assert (status, out.splitlines()[0]) == (0, "orders: 0 of 50 connections in use, 50 left")
    assert "WITH MAX_USER_CONNECTIONS 50" in out  # which MySQL would go on to enforce
    status, out, _ = run("set-budget", "orders", "10", "--lease-ms", "5000")
    assert (status, out.splitlines()[0]) == (0, "orders: 0 of 10 connections in use, 10 left")
    assert run("status", "orders")[1] == "orders: 0 of 10 connections in use, 10 left\n"


def test_status_names_each_lease_its_holder_and_its_end(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]]
) -> None:
    """The holders of the connections are the on-call operator's first question."""
    run("set-budget", "orders", "2")
    acquire(store, "expired1", ends_in_ms=-10_000)
    acquire(store, "holding1", ends_in_ms=60_000)
    out = run("status", "orders")[1]
    assert "2 of 2 connections in use, 0 left" in out
    first, second = out.splitlines()[-2:]
    assert first.split()[:4] == ["expired1", "checkou", "1", "0"]
    assert "takes it over" in first
    assert second.split()[:5] == ["holding1", "checkou", "1", "0", "in"]


def test_a_budget_lowered_below_what_is_in_use_is_explained(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]]
) -> None:
    """A negative figure with no words would look like a fault at 3 a.m."""
    run("set-budget", "orders", "2")
    acquire(store, "holding1", ends_in_ms=60_000)
    acquire(store, "holding2", ends_in_ms=60_000)
    assert "nothing is granted until enough has come back" in run("set-budget", "orders", "1")[1]


def test_reclaim_takes_back_only_what_is_over(store: MemoryStore, run: Callable[..., tuple[int, str, str]]) -> None:
    """An impatient operator must not be able to take a live lease away."""
    run("set-budget", "orders", "2")
    acquire(store, "expired1", ends_in_ms=-10_000)
    acquire(store, "holding1", ends_in_ms=60_000)
    assert json.loads(run("reclaim", "orders", "--json")[1]) == [{"lease_id": "expired1", "holder": "checkou"}]
    assert "1 of 2 connections in use" in run("status", "orders")[1]


def test_json_output_has_the_contracts_fields(run: Callable[..., tuple[int, str, str]]) -> None:
    """Other programs read it."""
    report = json.loads(run("set-budget", "orders", "3", "--json")[1])
    assert {"database", "allowed", "in_use", "remaining", "leases", "shards"} <= report.keys()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("set-budget", "orders", "-1"), "allowed"),
        (("set-budget", "or ders", "1"), "database"),
        (("set-budget", "orders", "1", "--shards", "0"), "shards"),
        (("set-budget", "orders", "1", "--lease-ms", "10"), "lease_ms"),
        (("status", "nowhere"), "nowhere"),
        (("status", "orders#0"), "database"),
        (("reclaim", "orders#0"), "database"),
        (("status", ""), "database"),
    ],
)
def test_bad_input_is_one_clear_line_that_names_the_field(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], field: str
) -> None:
    """A stack trace would hide what to correct; a write would do harm."""
    status, out, error = run(*arguments)
    assert (status, out, error.count("\n")) == (1, "", 1)
    assert field in error
    assert store.settings("orders", consistent=True) is None


def test_help_shows_how_to_do_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    """The help is what an operator without the manual has."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in ("status", "watch", "set-budget", "reclaim", "GOVERNOR_TABLE"))


def test_a_full_disk_behind_the_output_is_one_clear_line(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback at 3 a.m. says that the governor is broken, which it is not."""
    run("set-budget", "orders", "50")

    def full(_text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "_print", full)
    status, _, error = run("status", "orders")
    assert (status, error) == (1, "governor: [Errno 28] No space left on device\n")
