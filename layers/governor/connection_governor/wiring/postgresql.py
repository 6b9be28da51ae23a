"""Sessions of PostgreSQL, as the `DB_...` variables name the database."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from connection_governor.errors import InvalidRequest
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring.database import logins, secret_fetcher, target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.postgresql.opener import Opener
    from connection_governor.server.ports import Administration, KeptWatch
    from connection_governor.wiring.environment import Environment

PORT = 5_432


@contextmanager
def driver_needed(engine: str) -> Iterator[None]:
    """Raise `InvalidRequest` if what the body imports is missing: psycopg, or the libpq that it needs."""
    try:
        yield
    except ImportError as error:
        raise InvalidRequest(
            "DB_ENGINE",
            f"{engine} needs psycopg 3 and libpq in the function's package: install"
            f" connection-governor[postgresql] with psycopg[binary], or a system's libpq ({error})",
        ) from error


def opener(environment: Environment) -> Opener:
    """Return the opener of sessions of the database that the variables name.

    Raises:
        InvalidRequest: psycopg is missing, or the libpq that it needs; or a variable is.
    """
    with driver_needed("postgresql"):
        from connection_governor.postgresql.opener import Opener  # noqa: PLC0415 - an optional extra
        from connection_governor.postgresql.refusal import is_denied, is_token_denied  # noqa: PLC0415 - the same
    server = target(environment, PORT)
    found = logins(environment, server, is_denied=is_denied, is_token_denied=is_token_denied)
    return Opener(server, found, SYSTEM_CLOCK)


def watch(environment: Environment) -> KeptWatch:
    """Return the janitor's view of the server; the governed users are named by `DB_WORKER_USERS`."""
    from connection_governor.server.postgresql.watch import PostgreSQLWatch  # noqa: PLC0415 - no worker watches

    return PostgreSQLWatch(partial(opener, environment), lambda: environment.required("DB_WORKER_USERS").split(","))


def administration(environment: Environment) -> Administration:
    """Return what signs in to a server for the seed."""
    from connection_governor.server.postgresql.administration import (  # noqa: PLC0415 - no worker seeds
        PostgreSQLAdministration,
    )

    return PostgreSQLAdministration(secret_fetcher(environment))
