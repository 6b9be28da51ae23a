"""The database that the worker signs in to: made where it is missing, dropped only if the seed made it.

Its comment records who made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import sql

from connection_governor.server.postgresql.sample_table import MADE

if TYPE_CHECKING:
    from psycopg import Cursor

_EXISTS: Final = "SELECT 1 FROM pg_database WHERE datname = %s"
_COMMENT: Final = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
_CONTENT: Final = """
    WITH own AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    SELECT (SELECT count(*) FROM own WHERE nspname <> 'public')
         + (SELECT count(*) FROM pg_class WHERE relnamespace IN (SELECT oid FROM own))
         + (SELECT count(*) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM own))
         + (SELECT count(*) FROM pg_type WHERE typnamespace IN (SELECT oid FROM own))
         + (SELECT count(*) FROM pg_extension WHERE extname <> 'plpgsql')
         + (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_publication)
         + (SELECT count(*) FROM pg_largeobject_metadata)
"""


def exists(cursor: Cursor, name: str) -> bool:
    """Return whether the server has the database."""
    return cursor.execute(_EXISTS, (name,)).fetchone() is not None


def make(cursor: Cursor, name: str) -> None:
    """Create the database where it is missing; nobody may fill its disk with temporary tables unless granted to."""
    if exists(cursor, name):
        return
    database = sql.Identifier(name)
    cursor.execute(sql.SQL("CREATE DATABASE {}").format(database))
    cursor.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(MADE)))
    cursor.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))


def is_made(cursor: Cursor, name: str) -> bool:
    """Return whether the seed made the database."""
    return cursor.execute(_COMMENT, (name,)).fetchone() == (MADE,)


def is_empty(cursor: Cursor) -> bool:
    """Return whether the database that the session is in holds nothing."""
    return cursor.execute(_CONTENT).fetchone() == (0,)


def drop(cursor: Cursor, name: str) -> None:
    """Drop the database, and end the sessions that are still in it."""
    cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
