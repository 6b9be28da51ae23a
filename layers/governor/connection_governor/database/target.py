"""Where a database listens, and how its sessions are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.core.values import dataclass
from connection_governor.database.patience import Patience

if TYPE_CHECKING:
    from connection_governor.core.clock import Clock
    from connection_governor.core.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Target:
    """Where a database listens.

    Attributes:
        host: name or address; with `tls="verify"` the certificate must be for it.
        port: TCP port.
        database: the schema (MySQL) or database (PostgreSQL) to use, or None.
        tls: `verify`, `require` or `off`, see `authorities.MODES`.
        tls_ca: PEM file of the authorities to trust; None for those of Amazon RDS.
        connect_seconds: limit of each step of opening (connect, TLS, sign in, set up); within an invocation, of the
            whole first attempt.
        resume_seconds: how long to try in all within an invocation while the server is silent, see `patience`.
        role: `any`, or `writer` to refuse a server that only reads, see `server.ROLES`.
    """

    host: str
    port: int
    database: str | None = None
    tls: str = "verify"
    tls_ca: str | None = None
    connect_seconds: float = 3.0
    resume_seconds: float = 45.0
    role: str = "any"

    def patience(self, deadline: Deadline | None, clock: Clock) -> Patience:
        """Return the attempts of one opening, which begins now."""
        first_ms, longest_ms = round(self.connect_seconds * 1_000), round(self.resume_seconds * 1_000)
        return Patience(first_ms, longest_ms, deadline, clock)
