"""The example of a worker serves PostgreSQL by one variable more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.examples import answers, worker_of
from tests.support.postgresql import WORKER

if TYPE_CHECKING:
    from connection_governor.database.target import Target


@pytest.mark.dynamodb_local
def test_the_example_of_a_worker_serves_postgresql(dynamodb_local: str, target: Target) -> None:
    """What a newcomer copies first, with `DB_ENGINE=postgresql`."""
    with worker_of(dynamodb_local, target, WORKER, DB_ENGINE="postgresql") as (operations, variables):
        pieces = [10, 20, None]
        assert answers(variables, "worker.py", 1, 2, 3) == [{"statusCode": 200, "pieces": count} for count in pieces]
        assert operations.status("orders").in_use == 0
