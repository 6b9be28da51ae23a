"""A clock that stands still until a test sets it."""


class SetClock:
    """Tells `now`; nothing that uses it may wait."""

    def __init__(self, now: int) -> None:
        self.now = now

    def now_ms(self) -> int:
        """What the test says."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Fail: whoever waits here would wait in real time elsewhere."""
        raise AssertionError(f"asked to wait {seconds} s")
