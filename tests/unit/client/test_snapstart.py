"""SnapStart: the work before the snapshot and after a restore, and when no snapshot may be taken."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

from connection_governor import Governor, InvalidRequest
from connection_governor.client.lease_file import LeaseFile
from connection_governor.client.ports import Dependencies
from connection_governor.core.memory import MemoryStore
from connection_governor.metrics import Reporter
from connection_governor.wiring import Environment
from tests.support.calm_sessions import CalmOpener
from tests.support.invocation import FakeContext
from tests.support.worlds import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connection_governor.mysql.opener import Opener

SNAP_START = {
    "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
    "AWS_LAMBDA_FUNCTION_NAME": "checkout",
    "AWS_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "GOVERNOR_TABLE": "leases",
}


class Hooks:
    """The two registers of `snapshot_restore_py`, run as awslambdaric runs them."""

    def __init__(self) -> None:
        self.before: list[Callable[[], Any]] = []
        self.after: list[Callable[[], Any]] = []

    def take_snapshot(self) -> None:
        while self.before:
            self.before.pop()()

    def restore(self) -> None:
        for hook in self.after:
            hook()


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """Return the managed runtime's module; the real one is in `tests/integration/emulator`."""
    hooks, module = Hooks(), ModuleType("snapshot_restore_py")
    module.register_before_snapshot = hooks.before.append  # type: ignore[attr-defined]
    module.register_after_restore = hooks.after.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", module)
    for name, value in SNAP_START.items():
        monkeypatch.setenv(name, value)
    return hooks


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 10)
    return world


@pytest.fixture
def opener(world: World) -> CalmOpener:
    return CalmOpener(world.clock)


@pytest.fixture
def governor(
    monkeypatch: pytest.MonkeyPatch, hooks: Hooks, world: World, opener: CalmOpener, tmp_path: Path
) -> Governor:
    """Return a governor as `from_env` makes it, on leases and sessions in memory."""
    dependencies = Dependencies(
        world.clock,
        world.entropy,
        Reporter(world.journal),
        make_opener=lambda: cast("Opener", opener),
        lease_file=LeaseFile(str(tmp_path), world.clock),
    )
    parts = {"transport": world.transport, "dependencies": dependencies, "holder": "checkout/0", "database": "orders"}
    monkeypatch.setattr("connection_governor.wiring.governor_parts", lambda _environment: parts)
    return Governor.from_env()


def test_what_is_kept_is_released_before_the_snapshot(
    world: World, governor: Governor, opener: CalmOpener, hooks: Hooks, tmp_path: Path
) -> None:
    """Every restored environment holds the same lease, and uses the same session."""
    with governor.connection(context=FakeContext(), keep_seconds=30):
        pass
    assert world.shard().in_use == 1
    hooks.take_snapshot()
    assert world.shard().in_use == 0
    assert [session.open for session in opener.opened] == [False]
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_is_still_held_fails_the_publishing(world: World, governor: Governor, hooks: Hooks) -> None:
    """A thousand environments use one slot of the budget, each with a connection of its own."""
    lease = governor.acquire(lease_ms=60_000)
    with pytest.raises(InvalidRequest, match=lease.lease_id):
        hooks.take_snapshot()
    assert world.shard().in_use == 1


def test_a_lease_that_ended_long_ago_fails_nothing(world: World, governor: Governor, hooks: Hooks) -> None:
    """A version can never be published again, once a release had failed in its long initialization."""
    governor.acquire(lease_ms=1_000)
    world.clock.advance(1_000 + 60_000 + 1)
    hooks.take_snapshot()


def test_each_restored_environment_has_a_name_of_its_own(governor: Governor, hooks: Hooks) -> None:
    """No operator can tell which environment holds a connection: all have the snapshot's process number."""
    hooks.take_snapshot()
    names = set()
    for _ in range(3):
        hooks.restore()
        names.add(governor.acquire(context=FakeContext()).holder)
    assert len(names) == 3
    assert all(name.startswith("checkout/") and name != "checkout/0" for name in names)


def test_after_a_restore_leases_are_noted_in_a_new_file(governor: Governor, hooks: Hooks, tmp_path: Path) -> None:
    """The extension finds nothing to release when the environment ends."""
    governor.release(governor.acquire())
    before = set(tmp_path.iterdir())
    hooks.take_snapshot()
    hooks.restore()
    governor.acquire()
    after = set(tmp_path.iterdir())
    assert len(before) == len(after) == 1
    assert before != after


def test_kept_connections_to_aws_are_closed_before_the_snapshot(monkeypatch: pytest.MonkeyPatch, hooks: Hooks) -> None:
    """Several environments continue with one TLS stream, with the same keys and the same record numbers."""
    closed: list[Environment] = []

    def close(environment: Environment) -> None:
        closed.append(environment)

    monkeypatch.setattr(Environment, "close", close)
    Governor.from_env()
    hooks.take_snapshot()
    (environment,) = closed
    assert [endpoint.name for endpoint in environment.endpoints] == ["dynamodb in eu-central-1"]


def test_without_snapstart_nothing_is_registered(monkeypatch: pytest.MonkeyPatch, hooks: Hooks) -> None:
    """A cold start pays for a module that it does not need."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    Governor.from_env()
    assert (hooks.before, hooks.after) == ([], [])


def test_without_the_runtimes_module_a_governor_is_made_all_the_same(
    monkeypatch: pytest.MonkeyPatch, hooks: Hooks
) -> None:
    """A custom runtime cannot even import its function."""
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)
    assert Governor.from_env().holder.startswith("checkout/")
