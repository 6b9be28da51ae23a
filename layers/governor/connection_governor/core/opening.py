"""The rules of the opening rate. Pure, like `rules`: at most R grants in a second across the fleet, with a burst of B.

A token bucket, split evenly among the shards. Each shard stores one number, `opens`: when the token of its last grant
was due, in microseconds since 1970. A grant moves it in the write that stores the lease, so the two cannot part.

    the shard's `opens` lies            its bucket     what a grant writes
    ----------------------------------  -------------  -------------------------------------------------------
    before now - burst                  is full        refill: opens = now - burst + cost, or up to `slack` later
    up to now + wait - cost             has a token    spend: opens = opens + cost
    later                               has none       nothing: TooFast, with the time until a token is due

DynamoDB knows no maximum of two numbers, so a write has to guess which line applies. A wrong guess is answered with the
shard, and the next write is right. A refill leaves the bucket short of full by `slack` unless it was full for longer:
else the next grant would find it full again, and each grant of a quiet database would need two writes.

A caller that is ready to wait may take a token that is due within its wait, and opens when it is due. So waiting
callers stand in a queue, each with a time of its own, and none of them asks twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.rules import OtherPlan, TooFast, Write
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from connection_governor.core.lease import Settings, Shard

MS_US = 1_000
SECOND_US = 1_000_000
LONGEST_WAIT_MS = 10_000  # for a token that is not due yet: its lease is held meanwhile, and a new rate waits for it

SLACK_SHARE = 4  # of the burst: what light traffic gives up so that its grants need one write
ROUNDING_MS = 1  # clocks are read in whole milliseconds


@dataclass(frozen=True, slots=True)
class Pace:
    """One shard's part of a database's opening rate.

    Attributes:
        cost_us: the time in which one connection's token comes back.
        burst_us: the time in which an empty bucket is full again.
        first_plan: the plan that set this pace: a shard with an older one still has another.
        last_plan: the settings' plan: a shard with a newer one may have another.
    """

    cost_us: int
    burst_us: int
    first_plan: int
    last_plan: int

    @property
    def most_connections(self) -> int:
        """The most connections that one lease may have: no bucket of a shard ever holds more tokens."""
        return self.burst_us // self.cost_us

    @staticmethod
    def longest_wait_ms(wait_ms: int) -> int:
        """Return how long a caller that is ready to wait so long may wait for a token."""
        return min(wait_ms, LONGEST_WAIT_MS)

    def spending(self, connections: int, *, now_ms: int, wait_ms: int) -> Opening:
        """Return the grant that takes tokens from a bucket that is not full."""
        return self._opening(connections, now_ms, wait_ms, None)

    def refilling(self, connections: int, *, now_ms: int, slack_us: int) -> Opening:
        """Return the grant that finds the bucket full, and leaves it short of that by `slack_us` and its own tokens."""
        return self._opening(connections, now_ms, 0, slack_us)

    def step(
        self, shard: Shard, write: Write, connections: int, *, now_ms: int, wait_ms: int
    ) -> Write | TooFast | OtherPlan:
        """Return whether a shard with room, as read, also has tokens for a grant, and whether its bucket is full."""
        if not self.first_plan <= shard.plan <= self.last_plan or shard.opens_us is None:
            return OtherPlan(is_newer=shard.plan > self.last_plan)
        cost_us, now_us = connections * self.cost_us, now_ms * MS_US
        full_for_us = now_us - self.burst_us - shard.opens_us
        if full_for_us > 0:
            slack_us = self.burst_us // SLACK_SHARE
            return Write(write.taken, 0 if full_for_us > slack_us else slack_us)
        late_us = shard.opens_us + cost_us - now_us
        return TooFast(-(-late_us // MS_US)) if late_us > wait_ms * MS_US else Write(write.taken)

    def _opening(self, connections: int, now_ms: int, wait_ms: int, slack_us: int | None) -> Opening:
        cost_us, full_us = connections * self.cost_us, now_ms * MS_US - self.burst_us
        return Opening(
            full_us=full_us,
            latest_us=(now_ms + wait_ms) * MS_US - cost_us,
            cost_us=cost_us,
            refilled_us=None if slack_us is None else full_us + min(slack_us, self.burst_us - cost_us) + cost_us,
            first_plan=self.first_plan,
            last_plan=self.last_plan,
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """How a grant moves its shard's `opens`, and which stored values allow that.

    Attributes:
        full_us: a stored time before this one means a full bucket.
        latest_us: a stored time after this one means that the token is due too late.
        cost_us: what is added to the stored time.
        refilled_us: for a full bucket only: the new time; None: the bucket must not be full.
        first_plan, last_plan: the plans under which the shard has the pace that this was computed with.
    """

    full_us: int
    latest_us: int
    cost_us: int
    refilled_us: int | None
    first_plan: int
    last_plan: int


def pace_of(settings: Settings) -> Pace:
    """Return the pace of each shard of a database whose opening rate is limited.

    The shards together never exceed the database's rate and burst: the cost is rounded up, the burst down. The burst is
    shorter by the time that clocks may differ: else a writer whose clock is ahead would see tokens early.
    """
    rate = settings.opens_per_second
    return Pace(
        cost_us=_cost_us(rate, settings.shards),
        burst_us=settings.open_burst * SECOND_US // rate - _clocks_us(settings.skew_ms),
        first_plan=settings.rate_plan,
        last_plan=settings.plan,
    )


def least_burst(rate: int, *, shards: int, skew_ms: int) -> int:
    """Return the smallest burst with which each shard can grant: a token for each, and what clocks may differ by."""
    return -(-rate * (_cost_us(rate, shards) + _clocks_us(skew_ms)) // SECOND_US)


def usual_burst(rate: int, *, shards: int, skew_ms: int) -> int:
    """Return the burst of a database for which none is named: that of one second, beside the smallest."""
    return rate + least_burst(rate, shards=shards, skew_ms=skew_ms)


def empty_from_us(settings: Settings, *, now_ms: int) -> int:
    """Return what a shard's `opens` is at least when it gets a new pace: no token of the former pace is left.

    Later by the allowance for clocks, so that no writer whose clock is ahead sees tokens that were spent before.
    """
    return now_ms * MS_US + _clocks_us(settings.skew_ms)


def _cost_us(rate: int, shards: int) -> int:
    return -(-shards * SECOND_US // rate)


def _clocks_us(skew_ms: int) -> int:
    return (skew_ms + ROUNDING_MS) * MS_US
