"""The demo's scenario: a fleet, a crash, the recovery, the fleet again; then the same without a governor."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.demo.background import in_background
from harness.demo.capacity import leaked, wait_for_full_budget
from harness.demo.drill import Crash, kill_holders
from harness.demo.load import Wave, run, together
from harness.demo.observer import now_ms, operations_of
from harness.demo.progress import Figures
from harness.demo.recording import Load, Recording
from harness.demo.referee import Referee, referee_of
from harness.demo.summary import longest_lease_ms
from harness.demo.watch import Watch, watching
from harness.stack.deployment import DATABASE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.demo.progress import Progress
    from harness.run_options import RunOptions
    from harness.stack.local_stack import Stack

FIRST_WAVE = 0.7  # of the invocations; the others follow after the recovery
SHARE_KILLED = 0.4  # of the budget
LEFT_AT_CRASH_S = 6.0  # of the first wave: it continues with the rest, and ends before the lost leases expire
PATIENCE_S = 10.0  # beyond lease + skew, before the demo stops waiting for the full budget
POLL_S = 0.1
BREATH_S = 1.5  # between two parts, so that each is seen


def play(stack: Stack, options: RunOptions, progress: Progress) -> Recording:
    """Play the whole scenario; return the recording."""
    with watching(stack) as watch, contextlib.closing(referee_of(stack.database)) as referee:
        return _Play(stack, options, progress, watch, referee).all()


@dataclass(slots=True)
class _Play:
    stack: Stack
    options: RunOptions
    progress: Progress
    watch: Watch
    referee: Referee
    crash: Crash = field(default_factory=lambda: Crash(0, ()))

    def all(self) -> Recording:
        """Return the parts in their order."""
        options, skew_ms = self.options, operations_of(self.stack).status(DATABASE_NAME).settings.skew_ms
        refused_before = self.referee.refused()
        self.progress.step(f"{options.concurrency} workers at a time share {options.allowed} connections")
        first = self._first_wave()
        lease_ms = longest_lease_ms(first.holds)
        full_at_ms = self._recover((lease_ms + skew_ms) / 1000 + PATIENCE_S)
        governed = together(first, self._second_wave())
        refused = self.referee.refused() - refused_before
        time.sleep(BREATH_S)
        ungoverned = self._without_governor()
        lost = self._leaked(governed, lease_ms + skew_ms)
        return self._recording(governed, ungoverned, skew_ms, refused, full_at_ms, lost)

    def _waves(self, *, governed: bool) -> tuple[Wave, Wave]:
        options = self.options
        first = max(1, round(options.iterations * FIRST_WAVE))
        return (
            Wave(first, options.concurrency, "ramp", options.seed, governed),
            Wave(max(1, options.iterations - first), options.concurrency, "steady", options.seed + 1, governed),
        )

    def _run(self, wave: Wave, meanwhile: Callable[[], None]) -> Load:
        """Run one wave, and call `meanwhile` again and again."""
        load = in_background(lambda: run(self.stack, wave))
        while not load.done():
            time.sleep(POLL_S)
            meanwhile()
        return load.result()

    def _first_wave(self) -> Load:
        wave, since = self._waves(governed=True)[0], time.monotonic()

        def show_and_crash() -> None:
            self._show("governed")
            if not self.crash.pids and _is_time_to_crash(self.watch.ended, wave.iterations, time.monotonic() - since):
                self._crash()

        return self._run(wave, show_and_crash)

    def _crash(self) -> None:
        count = max(1, round(self.options.allowed * SHARE_KILLED))
        self.crash = kill_holders(self.referee, self.stack.aws.group, count, self.options.seed)
        self.progress.step(f"Killed {len(self.crash.pids)} workers while they held a connection (SIGKILL)")

    def _second_wave(self) -> Load:
        self.progress.step("The fleet again, with the whole budget")
        return self._run(self._waves(governed=True)[1], lambda: self._show("governed"))

    def _recover(self, timeout_s: float) -> int | None:
        self.progress.step("Waiting until the whole budget can be granted again")
        full_at_ms = wait_for_full_budget(self.stack, timeout_s=timeout_s, meanwhile=lambda: self._show("recovery"))
        time.sleep(BREATH_S)
        return full_at_ms

    def _without_governor(self) -> Load:
        self.progress.step("The same load without the governor")
        begun, refused = self.referee.begun(), self.referee.refused()

        def show() -> None:
            refused_now = self.referee.refused() - refused
            self._show("ungoverned", self.referee.begun() - begun + refused_now, refused=refused_now)

        return together(*(self._run(wave, show) for wave in self._waves(governed=False)))

    def _leaked(self, governed: Load, longest_ms: int) -> int:
        """Return the connections that are lost after every worker has ended."""
        self.progress.step("Looking for leaked leases")
        time.sleep(max(0, governed.to_ms + longest_ms - now_ms()) / 1000)
        return leaked(self.stack)

    def _recording(
        self, governed: Load, ungoverned: Load, skew_ms: int, refused: int, full_at_ms: int | None, lost: int
    ) -> Recording:
        bridge = self.watch.bridge
        bridge.pump()
        return Recording(
            engine=self.stack.database.ENGINE,
            engine_version=self.stack.database.release(),
            allowed=self.options.allowed,
            concurrency=self.options.concurrency,
            asked=self.options.iterations,
            skew_ms=skew_ms,
            governed=governed,
            ungoverned=ungoverned,
            crashed_at_ms=self.crash.at_ms if self.crash.pids else None,
            killed=len(self.crash.pids),
            full_again_at_ms=full_at_ms,
            leaked=lost,
            mysql_sessions=list(self.watch.database.samples),
            mysql_refused=refused,
            lent=list(self.watch.table.samples),
            remaining=bridge.values("Remaining Connections"),
            refusals=bridge.values("NoConnLeftError"),
            metric_totals={name: bridge.total(name) for name in ("Granted", "Released", "NoConnLeftError")},
        )

    def _show(self, what: str, done: int | None = None, *, refused: int | None = None) -> None:
        """Show the figures of this moment; of the governed fleet, unless given."""
        watch, options = self.watch, self.options
        self.progress.show(
            Figures(
                engine=self.stack.database.LABEL,
                what=what,
                done=watch.ended if done is None else done,
                asked=options.iterations,
                allowed=options.allowed,
                remaining=options.allowed - watch.table.latest(),
                refused=watch.refused if refused is None else refused,
                sessions=watch.database.latest(),
                acquire_ms=watch.acquire_ms,
            ),
        )


def _is_time_to_crash(done: int, asked: int, elapsed_s: float) -> bool:
    """Return whether the wave is past its middle, and so late that it ends before the lost leases expire."""
    left_s = (asked - done) / done * elapsed_s if done else float("inf")
    return done >= asked / 2 and left_s <= LEFT_AT_CRASH_S
