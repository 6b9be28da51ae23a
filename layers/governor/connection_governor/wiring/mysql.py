"""Sessions of MySQL and MariaDB, as the `DB_...` variables name the database."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from connection_governor.mysql.connect import is_denied
from connection_governor.mysql.opener import Opener
from connection_governor.system import SYSTEM_CLOCK
from connection_governor.wiring.database import logins, secret_fetcher, target

if TYPE_CHECKING:
    from connection_governor.server.ports import Administration, KeptWatch
    from connection_governor.wiring.environment import Environment

_PORT = 3_306


def opener(environment: Environment) -> Opener:
    """Return the opener of sessions of the database that the variables name."""
    server = target(environment, _PORT)
    found = logins(environment, server, is_denied=is_denied, is_token_denied=is_denied)
    return Opener(server, found, SYSTEM_CLOCK)


def watch(environment: Environment) -> KeptWatch:
    """Return the janitor's view of the server; the governed users are named by `DB_WORKER_USERS`."""
    from connection_governor.server.mysql.watch import MySQLWatch  # noqa: PLC0415 - no worker watches

    return MySQLWatch(partial(opener, environment), lambda: environment.required("DB_WORKER_USERS").split(","))


def administration(environment: Environment) -> Administration:
    """Return what signs in to a server for the seed."""
    from connection_governor.server.mysql.administration import MySQLAdministration  # noqa: PLC0415 - no worker seeds

    return MySQLAdministration(secret_fetcher(environment))
