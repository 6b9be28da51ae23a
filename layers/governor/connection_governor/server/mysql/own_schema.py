"""The schema in which the seed keeps its programs, each stack's under names of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

SCHEMA: Final = "connection_governor"
_EVERYTHING: Final = """
    SELECT (SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s)
         + (SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = %s)
         + (SELECT COUNT(*) FROM information_schema.events WHERE event_schema = %s)
"""  # information_schema.tables lists views as well


def make(cursor: Cursor) -> None:
    """Create the schema if it is missing. Raises if MySQL refuses."""
    cursor.execute(f"CREATE DATABASE IF NOT EXISTS {SCHEMA}")


def remove_if_empty(cursor: Cursor) -> None:
    """Drop the schema if no stack has anything in it."""
    if count_in(cursor, SCHEMA) == 0:
        cursor.execute(f"DROP DATABASE IF EXISTS {SCHEMA}")


def count_in(cursor: Cursor, schema: str) -> int:
    """Return how many tables, views, routines and events a schema holds."""
    cursor.execute(_EVERYTHING, (schema, schema, schema))
    (count,) = cursor.fetchone() or (0,)
    return int(count)
