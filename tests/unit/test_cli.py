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
    advice, shown = out.splitlines()
    assert (status, shown) == (0, "orders: 0 of 50 connections in use, 50 left")
    assert "first: ALTER USER ... WITH MAX_USER_CONNECTIONS 50" in advice
    assert advice.endswith("ALTER ROLE ... CONNECTION LIMIT 50")
    status, out, _ = run("set-budget", "orders", "10", "--lease-ms", "5000")
    shown, advice = out.splitlines()
    assert (status, shown) == (0, "orders: 0 of 10 connections in use, 10 left")
    assert "lower the database's limit: ALTER USER ... WITH MAX_USER_CONNECTIONS 10" in advice
    assert advice.endswith("ALTER ROLE ... CONNECTION LIMIT 10")
    assert run("status", "orders")[1] == "orders: 0 of 10 connections in use, 10 left\n"


def test_closing_a_database_advises_a_lock_and_never_a_limit_of_nothing(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    """`MAX_USER_CONNECTIONS 0` is "unlimited": the advice would open the database to every client."""
    run("set-budget", "orders", "2")
    closing = run("set-budget", "orders", "0")[1]
    assert "ALTER USER ... ACCOUNT LOCK" in closing
    assert "ALTER ROLE ... NOLOGIN" in closing
    opening = run("set-budget", "orders", "3")[1]
    assert "WITH MAX_USER_CONNECTIONS 3 ACCOUNT UNLOCK" in opening
    assert "ALTER ROLE ... LOGIN CONNECTION LIMIT 3" in opening


def test_the_advice_to_raise_mysqls_limit_comes_before_the_write(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that are granted more than MySQL takes meet error 1226."""
    stored: list[object] = []
    monkeypatch.setattr(cli, "_print", lambda _text: stored.append(store.settings("orders", consistent=True)))
    run("set-budget", "orders", "2")
    assert stored[0] is None
    assert stored[1] is not None


def test_a_budget_above_what_the_operator_says_the_server_takes_is_refused(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]]
) -> None:
    """500 on a server of 13 would be error 1040 for hundreds of workers."""
    status, out, error = run("set-budget", "orders", "14", "--server-limit", "13")
    assert (status, out) == (1, "")
    assert "at most 13" in error
    assert store.settings("orders", consistent=True) is None
    assert run("set-budget", "orders", "13", "--server-limit", "13")[0] == 0


def test_settings_that_are_behind_their_shards_are_reported(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]]
) -> None:
    """A settings item from a backup governs nothing, and the budget that it shows is not the one in force."""
    run("set-budget", "orders", "5")
    restored = store.settings("orders", consistent=True)
    assert restored is not None
    run("set-budget", "orders", "2")
    store._settings["orders"] = restored
    assert "newer plan than the settings" in run("status", "orders")[1]
    assert "newer plan" not in run("set-budget", "orders", "4")[1]


def test_adopting_a_restored_database_closes_it_for_as_long_as_a_lease_may_last(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]]
) -> None:
    """An operator who restores a table has to know how long nothing is granted, and why."""
    run("set-budget", "orders", "5", "--skew-ms", "0")
    status, out, _ = run("adopt", "orders", "4", "--longest-lease-ms", "0")
    assert (status, out.splitlines()[-1]) == (0, "orders: 0 of 4 connections in use, 4 left")
    assert "closed for 0 s" in out
    settings = store.settings("orders", consistent=True)
    assert settings is not None
    assert settings.plan == 3


def test_an_adoption_that_is_stopped_leaves_the_database_closed_and_says_so(
    store: MemoryStore, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success in the shell's eyes would be taken for the end of the wait."""

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(SYSTEM_CLOCK), "sleep", lambda _clock, seconds: stop(seconds))
    run("set-budget", "orders", "5")
    status, _, error = run("adopt", "orders", "5")
    assert status == 1
    assert "stays closed" in error
    settings = store.settings("orders", consistent=True)
    assert settings is not None
    assert settings.allowed == 0


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


def test_reclaim_removes_only_expired_leases(store: MemoryStore, run: Callable[..., tuple[int, str, str]]) -> None:
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


@pytest.fixture
def janitor(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Return what the janitor function is asked; it answers with the first answer that is left."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(cli, "function_caller", lambda _environment: lambda body: _answer(asked, body))
    return asked


ANSWERS: dict[object, object] = {
    "sessions": {
        "names_known": True,
        "sessions": [
            {"session": 7, "user": "worker", "command": "Query", "seconds": 3, "lease_id": "lease001", "holder": "shop"}
        ],
    },
    "kill": {"killed": [7]},
    "limit": {"error": {"code": "invalid_request", "field": "connections", "message": "must be 5 or more"}},
}


def _answer(asked: list[dict[str, object]], body: bytes) -> tuple[bytes, str | None]:
    asked.append(json.loads(body))
    return json.dumps(ANSWERS[asked[-1]["action"]]).encode(), None


def test_mysqls_sessions_are_shown_and_ended_through_the_janitor_function(
    janitor: list[dict[str, object]], run: Callable[..., tuple[int, str, str]]
) -> None:
    """Nothing but that function reaches a made database."""
    listed = run("sessions", "orders")
    assert (listed[0], listed[1].splitlines()[1].split()) == (0, ["7", "worker", "Query", "3", "lease001", "shop"])
    assert run("kill", "orders", "--lease", "lease001")[:2] == (0, "session 7 ended\n")
    assert run("kill", "orders", "--session", "7", "--json")[1] == '{"killed": [7]}\n'
    by = janitor[0].pop("by")
    assert isinstance(by, str)
    assert "@" in by
    assert janitor[0] == {"action": "sessions", "database": "orders"}
    assert (janitor[1]["lease_id"], janitor[2]["session"]) == ("lease001", 7)


def test_what_the_janitor_function_refuses_is_an_error(
    janitor: list[dict[str, object]], run: Callable[..., tuple[int, str, str]]
) -> None:
    """A refusal that looks like success leaves the operator waiting."""
    assert run("limit", "orders", "3") == (1, "", "governor: connections: must be 5 or more\n")


def test_kill_needs_one_of_its_options(janitor: list[dict[str, object]]) -> None:
    """Without them it could only guess whom to end."""
    for wrong in ((), ("--session", "7", "--lease", "lease001")):
        with pytest.raises(SystemExit) as usage:
            cli.main(("kill", "orders", *wrong))
        assert usage.value.code == 2
    assert janitor == []


def test_an_opening_rate_is_set_shown_and_turned_off(run: Callable[..., tuple[int, str, str]]) -> None:
    """An operator must see the limit that refuses workers although connections are left."""
    out = run("set-budget", "orders", "50", "--opens-per-second", "100", "--burst", "1000")[1]
    assert "opened at most 100 a second, with a burst of 1000; callers wait up to 1.0 s for their turn" in out
    assert '"opens_per_second": 100, "open_burst": 1000' in run("status", "orders", "--json")[1]
    status, _, error = run("set-budget", "orders", "50", "--burst", "100")
    assert status == 1
    assert "open_burst: must be 103 or more with 100 a second" in error
    assert "a second" not in run("set-budget", "orders", "50", "--opens-per-second", "0")[1]
