"""The kinds of databases on which each promise of a governed session is tested: the same tests on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.faulty_store import FaultyStore
from tests.support.kinds import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

BUDGET = 5
DATABASE = "orders"


@pytest.fixture(scope="module", params=list(KINDS))
def prepared_kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Yield a kind of database, with a worker's user; the server is left as other tests expect it."""
    kind = KINDS[request.param](request.getfixturevalue(request.param))
    kind.prepare()
    with kind.administrator():
        yield kind
    kind.leave()


@pytest.fixture
def kind(prepared_kind: Kind) -> Kind:
    """Return the kind, with no limit on the worker's user but the server's."""
    prepared_kind.limit(15)
    return prepared_kind


@pytest.fixture
def store() -> FaultyStore:
    """Return the leases: a budget of five, so that one kept session is no pressure."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget(DATABASE, BUDGET)
    return store
