"""What a kind of PostgreSQL takes from a session: the server itself, and Aurora DSQL, which has rules of its own.

DSQL's are known from its documentation and from public reports only; nothing here was run against it. Sources:

- https://docs.aws.amazon.com/aurora-dsql/latest/userguide/CHAP_quotas.html: 60 minutes for a connection, 5 for a
  transaction, 10,000 connections, 100 new ones a second after a burst of 1,000 (53400).
- https://docs.aws.amazon.com/aurora-dsql/latest/userguide/working-with-concurrency-control.html: 40001.
- github.com/awslabs/aurora-dsql-connectors, pull requests 28 and 46: `RESET ALL` is taken, and `application_name` in
  the start-up packet.
- github.com/pgadmin-org/pgadmin4, issue 9433, and others: a setting, as `statement_timeout`, is refused with an error.
"""

from __future__ import annotations

from typing import Final

from connection_governor.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """What a kind of server takes from a session.

    Attributes:
        name: of the kind, for messages.
        takes_settings: whether the start-up packet may have settings, and with them the fence.
        says_more: whether a session may ask which server it is on, and end other sessions.
        prepares: whether statements are prepared that a reset has to forget.
        forget: the command that forgets a session's state, after a rollback.
        longest_kept_ms: the age from which a session is closed and not kept; None: none.
    """

    name: str
    takes_settings: bool
    says_more: bool
    prepares: bool
    forget: bytes
    longest_kept_ms: int | None


POSTGRESQL: Final = Rules(
    name="PostgreSQL",
    takes_settings=True,
    says_more=True,
    prepares=True,
    forget=b"DISCARD ALL",
    longest_kept_ms=None,
)
# Its 60 minutes less the longest invocation (15) and the longest rest between two (5).
AURORA_DSQL: Final = Rules(
    name="Aurora DSQL",
    takes_settings=False,
    says_more=False,
    prepares=False,
    forget=b"RESET ALL",
    longest_kept_ms=40 * 60_000,
)
