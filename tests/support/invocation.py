"""Lambda contexts that a test sets."""


class FakeContext:
    """As much of Lambda's context as the handlers use."""

    def __init__(self, remaining_ms: int = 30_000) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        """Return what the test says."""
        return self.remaining_ms
