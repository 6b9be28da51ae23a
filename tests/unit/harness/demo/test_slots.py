"""How holds are laid out in the picture."""

from harness.demo.recording import Hold
from harness.demo.slots import in_slots


def test_a_slot_is_used_again_when_its_holder_is_done() -> None:
    """Otherwise the picture shows more slots than the budget, and so an over-grant that was none."""
    holds = [Hold(0, 10, 99, crashed=False), Hold(5, 20, 99, crashed=False), Hold(10, 30, 99, crashed=False)]
    assert [slot for _, slot in in_slots(holds)] == [0, 1, 0]


def test_a_dead_workers_slot_is_taken_until_its_lease_ends() -> None:
    """The picture would show a slot as free that the governor still keeps."""
    holds = [Hold(0, 10, 50, crashed=True), Hold(11, 20, 99, crashed=False), Hold(50, 60, 99, crashed=False)]
    assert [slot for _, slot in in_slots(holds)] == [0, 1, 0]
