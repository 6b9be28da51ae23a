"""The interfaces that a governor needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.client.lease_file import NO_LEASE_FILE
from connection_governor.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.client.lease_file import LeaseNotes
    from connection_governor.core.clock import Clock
    from connection_governor.core.entropy import Entropy
    from connection_governor.core.operations import Operations
    from connection_governor.metrics import Reporter
    from connection_governor.mysql.opener import Opener


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a governor needs of the world around it.

    Attributes:
        clock: the time that is written into leases.
        entropy: where lease ids and jitter come from.
        reporter: writes refusals and ungoverned connections to the log, as metrics.
        make_opener: makes the opener of MySQL sessions at its first use; None: `lease` only.
        operations: makes the operator's commands at their first use; None: no `set_budget`.
        lease_file: tells the extension which leases are held, if there is one.
        stops_at_deadline: whether Lambda stops an invocation's code at its deadline; not so on Managed Instances.
    """

    clock: Clock
    entropy: Entropy
    reporter: Reporter
    make_opener: Callable[[], Opener] | None = None
    operations: Callable[[], Operations] | None = None
    lease_file: LeaseNotes = NO_LEASE_FILE
    stops_at_deadline: bool = True
