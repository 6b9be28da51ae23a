"""The deployed stack that these tests share, and the means to look at it from outside."""

import pytest

from tests.stack.drills import start_table


@pytest.fixture(scope="session")
def results_of_drills() -> None:
    """Begin build/faults.md, to which each drill of this run adds its figures."""
    start_table()
