"""The sizes that a user may set."""

import pytest

from harness.demo.capacity import pieces_of
from harness.errors import StackError
from harness.run_options import ENGINES, RunOptions
from harness.stack.engines import SERVERS


def test_sizes_are_taken_from_the_command_line_and_the_rest_by_default() -> None:
    """What was not set is exported by make as an empty string."""
    assert RunOptions.from_environment({"ALLOWED": "20", "SEED": " ", "CONCURRENCY": ""}) == RunOptions(allowed=20)


@pytest.mark.parametrize(
    ("name", "value"), [("ALLOWED", "0"), ("ITERATIONS", "many"), ("STACK_PORT", "80"), ("SEED", "-1")]
)
def test_a_size_that_cannot_be_is_named(name: str, value: str) -> None:
    """The error names the wrong setting before anything is started."""
    with pytest.raises(StackError, match=rf"^{name} must be a whole number from .* not '{value}'$"):
        RunOptions.from_environment({name: value})


def test_the_engine_is_one_that_this_machine_can_run() -> None:
    """A wrong name would show after the stack is half built; and each engine needs a default of the same name."""
    assert RunOptions.from_environment({"ENGINE": ""}).engine == "mysql"
    assert set(ENGINES) == SERVERS.keys()
    with pytest.raises(StackError, match=r"^ENGINE must be one of mysql, mariadb, postgresql, not 'oracle'$"):
        RunOptions.from_environment({"ENGINE": "oracle"})


@pytest.mark.parametrize(("shares", "pieces"), [([10], [10]), ([19, 18], [18, 18, 1]), ([3, 3, 2], [2, 2, 2, 1, 1])])
def test_the_whole_budget_is_probed_in_pieces_that_fit_the_shards(shares: list[int], pieces: list[int]) -> None:
    """A probe larger than a shard's share could never be granted, and the budget would seem lost."""
    assert pieces_of(shares) == pieces
