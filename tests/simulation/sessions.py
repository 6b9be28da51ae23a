"""Promise 5, checked at its place: MySQL's count against the leases.

Not counted against the budget, because no promise covers them, but counted in the report: a session whose statement
runs past every limit; one that heard its goodbye and is slow to go; one whose client has not yet set it up; one that
was opened without a lease on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from pymysql import err

from connection_governor.core.observation import Observation, Session
from tests.support.hub import MS

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.simulation.ledger import Ledger, Place, Tally
    from tests.simulation.server import Server, ServerSession
    from tests.support.hub import Hub, Process


class Sessions:
    """Matches sessions to leases.

    Args:
        hub: the virtual time.
        ledger: what is lent.
        tally: counts what is not covered.
        idle_ms: W: a client that takes longer to set its session up was frozen in between.
    """

    def __init__(self, hub: Hub, ledger: Ledger, tally: Tally, *, idle_ms: int) -> None:
        self._hub = hub
        self._ledger = ledger
        self._tally = tally
        self._idle_us = idle_ms * MS
        self._by_place: defaultdict[Place, list[ServerSession]] = defaultdict(list)
        self.covered = 0
        self.peak = 0
        ledger.on_gone = self._lease_gone

    def opened(self, session: ServerSession) -> None:
        """See `server.Watcher`."""
        place = place_of(session)
        if place is None:
            session.stray = True
            self._tally.outcomes["session without a lease"] += 1
            return
        self._by_place[place].append(session)

    def fenced(self, session: ServerSession) -> None:
        """See `server.Watcher`: from here on the session counts."""
        place = place_of(session)
        if place is None or session.stray:
            return
        if place[1] not in self._leases(place[0]):
            session.stray = True
            self._tally.outcomes["session set up after its lease was gone"] += 1
            return
        if self._hub.now_us - session.signed_in_us > self._idle_us:
            session.stray = True
            self._tally.outcomes["session frozen between sign-in and set-up"] += 1
            return
        self.covered += 1
        self.peak = max(self.peak, self.covered)
        if self.covered > self._ledger.lent:
            self._excuse_runaways()
        if self.covered > self._ledger.lent:
            self._ledger.check_lent(self.covered)

    def ended(self, session: ServerSession) -> None:
        """See `server.Watcher`: only a session whose lease is gone may be ended."""
        place = place_of(session)
        if place in self._ledger.held and place not in self._ledger.given_up:
            self._ledger.breaks("ended early", f"session {session.connection_id} was ended under lease {place}")

    def closed(self, session: ServerSession) -> None:
        """See `server.Watcher`."""
        place = place_of(session)
        if place is None:
            return
        if session in self._by_place[place]:
            self._by_place[place].remove(session)
            if session.ready and not session.stray:
                self.covered -= 1

    def excuse(self, process: Process) -> None:
        """Excuse the kept session of a worker that deliberately connects without the governor."""
        for sessions in self._by_place.values():
            for session in sessions:
                if session.is_of(process) and session.ready and not session.stray:
                    session.stray = True
                    self.covered -= 1
                    self._tally.outcomes["kept session goes on without a lease"] += 1

    def _excuse_runaways(self) -> None:
        """Excuse a statement that ran past every limit: it may outlive its lease, even one that is still stored."""
        for place, sessions in self._by_place.items():
            for session in sessions:
                if session.runaway and session.ready and not session.stray and place not in self._ledger.held:
                    session.stray = True
                    self.covered -= 1
                    self._tally.outcomes["session beyond its lease: statement ran away"] += 1

    def _lease_gone(self, place: Place) -> None:
        """Check a lease that was released, taken over or reclaimed: none of its sessions may be left."""
        for session in self._by_place.pop(place, ()):
            self._by_place[place].append(session)
            if session.stray:
                continue
            why = _uncovered(session)
            if why is None:
                self._outlived(session, place)
            elif session.ready:
                self.covered -= 1
            session.stray = True
            self._tally.outcomes[f"session beyond its lease: {why or 'clocks beyond the allowance'}"] += 1

    def _outlived(self, session: ServerSession, place: Place) -> None:
        self._ledger.breaks(
            "MySQL agrees", f"session {session.connection_id} outlives lease {place[1]} of shard {place[0]}"
        )
        self.covered -= 1

    def _leases(self, index: int) -> Collection[str]:
        shard = self._ledger.shards.get(index)
        return shard.leases if shard else ()


def place_of(session: ServerSession) -> Place | None:
    """Return the shard and lease that a session names."""
    parts = session.name.split(":")
    if len(parts) != 3:
        return None
    return int(parts[2].rpartition("#")[2]), parts[1]


def _uncovered(session: ServerSession) -> str | None:
    if not session.ready:
        return "not set up yet"
    if session.runaway:
        return "statement ran away"
    return "slow to close" if session.leaving else None


class VirtualWatch:
    """The janitor's eye: sees and kills as the monitoring user would, each at the price of a round trip."""

    error: type[Exception] = err.MySQLError

    def __init__(self, process: Process, server: Server, ledger: Ledger, tally: Tally) -> None:
        self._process = process
        self._server = server
        self._ledger = ledger
        self._tally = tally

    def observe(self) -> Observation:
        """See `ports.Watch`."""
        self._process.brink()
        self._process.sleep(self._server.hop_us())
        seen = tuple(
            Session(session.connection_id, "worker", "", "Sleep", 0, session.name or None)
            for session in self._server.sessions.values()
        )
        self._process.sleep(self._server.hop_us())
        return Observation(seen, names_known=True)

    def kill(self, session: Session) -> bool:
        """See `ports.Watch`; a session whose lease is still held must never be killed."""
        self._process.sleep(self._server.hop_us())
        victim = self._server.sessions.get(session.connection_id)
        if victim is None or victim.name != session.program_name:
            return False
        place = place_of(victim)
        if place in self._ledger.held and place not in self._ledger.given_up:
            self._ledger.breaks("MySQL agrees", f"the janitor killed the session of lease {place}, which is held")
        self._tally.outcomes["session killed by the janitor"] += 1
        return self._server.kill(session.connection_id)
