"""The promises to callers, waiting or not.

A caller that waits while capacity is free is granted within a minute of virtual time. No caller is refused for good
while a shard has room all along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.ledger import Violation, connections, end_ms
from tests.support.hub import MS, SECOND

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger
    from tests.support.hub import Hub

PATIENCE_US = 60 * SECOND
MEMORY_US = 2 * SECOND  # what an environment itself has seen full so lately, it need not look at again
SETTINGS_KEPT_US = 60 * SECOND  # an environment may not have heard of a new budget before, by its own clock


class Patience:
    """Knows since when capacity for one connection is free, whatever freed it.

    Capacity is free where the budget exceeds what the leases hold that are not over by every clock.

    Args:
        hub: the true time.
        ledger: what is stored.
        skew_ms: the allowance for clocks.
        clock_bound_ms: how far a clock may be from the true time: so settings are kept for longer where it is put back.
        lag_ms: how old a read may be.
    """

    def __init__(self, hub: Hub, ledger: Ledger, *, skew_ms: int, clock_bound_ms: int, lag_ms: int) -> None:
        self._hub = hub
        self._ledger = ledger
        self._over_after_ms = skew_ms + skew_ms // 2 + 1
        self._settings_kept_us = SETTINGS_KEPT_US + (2 * clock_bound_ms + lag_ms) * MS
        self._lag_us = lag_ms * MS
        self._full_until_us = 0
        self._free_from_us = 0
        self._plan = 0
        self._plan_since_us = 0
        self._roomy_since_us: dict[int, int] = {}
        ledger.on_change = self._changed

    def troubled(self) -> None:
        """Note the end of an outage: until now no caller could be served."""
        self._full_until_us = self._hub.now_us

    def check(self, waiter: str, since_us: int) -> None:
        """Check a wait that began then, and ends or continues now."""
        now_us = self._hub.now_us
        free_since_us = max(self._full_until_us, self._free_from_us, since_us)
        if now_us - free_since_us > PATIENCE_US:
            waited_ms = (now_us - free_since_us) // MS
            self._ledger.breaks("kept waiting", f"{waiter} waited while capacity was free for {waited_ms} ms")

    def check_refusal(self, waiter: str, began_us: int) -> None:
        """Check a refusal of a newcomer's only try, for one connection: no shard may have had room throughout.

        Room that a read or a fresh memory cannot have shown does not count, nor a shard that the environment does not
        know of.
        """
        settings = self._ledger.settings
        if settings is None or began_us - self._plan_since_us < self._settings_kept_us:
            return
        for index, since_us in self._roomy_since_us.items():
            if index < settings.shards and since_us < began_us - self._lag_us - MEMORY_US:
                raise Violation("refused early", f"{waiter} was refused although shard {index} had room")

    def _changed(self) -> None:
        now_us, settings = self._hub.now_us, self._ledger.settings
        self._full_until_us = max(self._full_until_us, min(self._free_from_us, now_us))
        if settings is None:
            return
        if settings.plan != self._plan:
            self._plan, self._plan_since_us = settings.plan, now_us
            self._full_until_us = now_us + SETTINGS_KEPT_US
        shards = self._ledger.shards.values()
        for shard in shards:
            if shard.remaining < 1:
                self._roomy_since_us.pop(shard.key.index, None)
            else:
                self._roomy_since_us.setdefault(shard.key.index, now_us)
        missing = sum(shard.allowed - shard.remaining for shard in shards) - settings.allowed + 1
        self._free_from_us = now_us if missing <= 0 else self._comes_back_us(missing)

    def _comes_back_us(self, missing: int) -> int:
        """Return when so many connections will have expired, if nothing changes."""
        records = sorted(record for shard in self._ledger.shards.values() for record in shard.leases.values())
        for record in records:
            missing -= connections(record)
            if missing <= 0:
                return (end_ms(record) + self._over_after_ms) * MS
        return 1 << 62  # the budget is zero
