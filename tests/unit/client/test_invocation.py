"""What a handler gets as its context: Lambda's own, a durable function's, with or without a tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from connection_governor import Governor, InvalidRequest, Lease, LeaseLost
from connection_governor.client.invocation import holder_for_tenant, lambda_context
from connection_governor.client.keepalive import kept_fence
from connection_governor.client.ports import Dependencies
from connection_governor.core.deadline import Deadline
from connection_governor.core.lease import holder_tag
from connection_governor.core.memory import MemoryStore
from connection_governor.metrics import Reporter
from tests.support.calm_sessions import CalmOpener
from tests.support.invocation import FakeContext
from tests.support.worlds import World

if TYPE_CHECKING:
    from connection_governor.mysql.opener import Opener


class DurableContext:
    """A context as the durable execution SDK 3.0.0 passes it: the Lambda context is inside, and has no time method."""

    def __init__(self, inner: FakeContext | None) -> None:
        self.state = object()
        self.execution_context = object()
        self.lambda_context = inner
        self.logger = object()


class StepContext:
    """As the same SDK hands it to a step: it leads to no Lambda context."""

    logger = object()
    attempt = 1


class TenantContext(FakeContext):
    """Lambda's context of a function that isolates its tenants."""

    def __init__(self, tenant_id: str | None, remaining_ms: int = 30_000) -> None:
        super().__init__(remaining_ms)
        self.tenant_id = tenant_id


@pytest.fixture
def world() -> World:
    world = World(MemoryStore())
    world.operations.set_budget("orders", 3)
    world.store.calls.clear()
    return world


@pytest.fixture
def governor(world: World) -> Governor:
    dependencies = Dependencies(world.clock, world.entropy, Reporter(world.journal))
    return Governor(world.transport, dependencies, holder="checkout/2f1c", database="orders")


def acquired(governor: Governor, context: Any) -> Lease:  # noqa: ANN401 - whatever a handler got
    return governor.acquire(context=context)


def test_a_durable_functions_context_bounds_a_lease_as_lambdas_own(world: World, governor: Governor) -> None:
    """Every durable function that passes its context on meets an AttributeError."""
    ends = {acquired(governor, context).expires_at_ms for context in (FakeContext(), DurableContext(FakeContext()))}
    assert ends == {world.clock.now + 30_000 + governor.fence.margin_ms}


def test_the_invocation_that_runs_now_bounds_its_requests(governor: Governor) -> None:
    """A silent service is waited for until Lambda kills the durable function."""
    request = governor.request(context=DurableContext(FakeContext(1_000)))  # type: ignore[arg-type] # as a user passes it
    assert request.invocation == Deadline.after(1_000, governor.clock)


@pytest.mark.parametrize("context", [StepContext(), DurableContext(None), object(), "context", 30_000])
def test_whatever_leads_to_no_deadline_is_refused_by_name(world: World, governor: Governor, context: Any) -> None:  # noqa: ANN401 - a user's mistake
    """An AttributeError from inside the package, and nothing says what to pass instead."""
    verbs: tuple[Any, ...] = (governor.acquire, governor.lease, governor.connection, governor.connect)
    for verb in verbs:
        with pytest.raises(InvalidRequest) as refused:
            verb(context=context).__enter__()
        assert refused.value.field == "context"
        assert type(context).__name__ in refused.value.message
    assert world.store.calls == []


def test_a_context_of_ones_own_is_taken_as_it_is() -> None:
    """Tests, and other schedulers, that bring an object with the one method."""
    own = FakeContext()
    assert lambda_context(own) is own


def test_the_tenant_is_in_the_holders_name(governor: Governor) -> None:
    """With an environment for each tenant, no operator sees whose sessions use the budget up."""
    assert acquired(governor, TenantContext("blue")).holder == "checkout/2f1c@blue"
    assert acquired(governor, DurableContext(TenantContext("green"))).holder == "checkout/2f1c@green"
    assert acquired(governor, TenantContext(None)).holder == "checkout/2f1c"


def test_a_holder_that_is_named_stays_as_it_is(governor: Governor) -> None:
    """A caller's own name is not the one in the log."""
    lease = governor.acquire(holder="nightly/1", context=TenantContext("blue"))
    assert lease.holder == "nightly/1"


@pytest.mark.parametrize(
    ("holder", "tenant"),
    [("x" * 55 + "/89abcdef", "t" * 256), ("a/" + "e" * 62, "t" * 256), ("h" * 64, "blue"), ("checkout/1", "a/b c@d")],
)
def test_a_name_with_a_tenant_is_still_a_holders_name(holder: str, tenant: str) -> None:
    """A function with a long name is refused as soon as it isolates its tenants."""
    named = holder_for_tenant(holder, TenantContext(tenant))
    assert 1 <= len(named) <= 64
    assert "@" in named or "/" in holder
    assert holder_tag(named)[:1] == holder_tag(holder)[:1]


def test_tenants_with_a_common_beginning_are_distinguished() -> None:
    """`customer-of-the-northern-region-1` and `-2` are one in the log."""
    long = "customer-of-the-northern-region-"
    names = {holder_for_tenant("checkout/2f1c", TenantContext(long + number)) for number in "12"}
    assert len(names) == 2


# Where no deadline stops the code: Managed Instances


@pytest.fixture
def unstopped(world: World) -> Governor:
    opener = CalmOpener(world.clock)
    dependencies = Dependencies(
        world.clock,
        world.entropy,
        Reporter(world.journal),
        make_opener=lambda: cast("Opener", opener),
        stops_at_deadline=False,
    )
    return Governor(world.transport, dependencies, holder="checkout/1", database="orders")


@pytest.mark.parametrize("keep_seconds", [0, 30])
def test_a_lease_outlasts_a_statement_that_began_late_by_an_idle_time(
    world: World, unstopped: Governor, keep_seconds: int
) -> None:
    """A process that paused after its look at the clock still has a session when its lease is taken over."""
    fence = kept_fence(unstopped.fence, keep_seconds)
    last_statement_ms = world.clock.now + 30_000 + fence.idle_ms  # the server hangs up on whoever pauses for longer
    with unstopped.connection(context=FakeContext(), keep_seconds=keep_seconds) as connection:
        assert connection.lease is not None
        assert connection.lease.expires_at_ms >= last_statement_ms + fence.statement_bound_ms + fence.idle_ms
        assert connection.usable_until_ms is not None
        assert connection.usable_until_ms + fence.guard_ms == connection.lease.expires_at_ms


def test_a_kept_session_is_covered_as_far_in_the_next_invocation(world: World, unstopped: Governor) -> None:
    """Only the invocation that opened the session is safe."""
    fence = kept_fence(unstopped.fence, 30)
    for _ in range(3):
        world.clock.advance(20_000)
        with unstopped.connection(context=FakeContext(), keep_seconds=30) as connection:
            assert connection.lease is not None
            assert connection.usable_until_ms is not None
            assert connection.usable_until_ms >= world.clock.now + 30_000
            assert connection.usable_until_ms + fence.guard_ms == connection.lease.expires_at_ms


def test_a_statement_after_the_deadline_is_refused(world: World, unstopped: Governor) -> None:
    """An invocation that has timed out uses its connection for as long as it likes."""
    with unstopped.connection(context=FakeContext()) as connection:
        world.clock.advance(30_001)
        with pytest.raises(LeaseLost):
            cast("Any", connection).query()
