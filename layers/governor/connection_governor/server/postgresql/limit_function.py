"""The function with which the janitor's role sets the worker's limit, and can set nothing else.

`ALTER ROLE` needs CREATEROLE, which before PostgreSQL 16 changes every password. A function with SECURITY DEFINER runs
with its owner's rights, for one role and one number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import errors, sql

if TYPE_CHECKING:
    from psycopg import Cursor

SCHEMA: Final = "connection_governor"


def make(cursor: Cursor, *, worker: str, monitor: str) -> None:
    """Create the function for this worker, and let the janitor's role call it. Raises if the server refuses."""
    cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
    body = sql.SQL("BEGIN EXECUTE pg_catalog.format('ALTER ROLE %I CONNECTION LIMIT %s', {}::text, connections); END")
    cursor.execute(
        sql.SQL(
            # An object of the same name in a schema of the caller's must not run with the owner's rights.
            "CREATE OR REPLACE FUNCTION {}(connections integer) RETURNS void LANGUAGE plpgsql "
            "SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {}"
        ).format(_name(worker), sql.Literal(body.format(sql.Literal(worker)).as_string(cursor)))
    )
    function = sql.SQL("FUNCTION {}(integer)").format(_name(worker))
    cursor.execute(sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(function))
    cursor.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(SCHEMA), sql.Identifier(monitor)))
    cursor.execute(sql.SQL("GRANT EXECUTE ON {} TO {}").format(function, sql.Identifier(monitor)))


def remove(cursor: Cursor, *, worker: str) -> None:
    """Drop the function, and its schema if no other stack has one there."""
    cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (SCHEMA,))
    if cursor.fetchone() is None:
        return
    cursor.execute(sql.SQL("DROP FUNCTION IF EXISTS {}(integer)").format(_name(worker)))
    try:
        cursor.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(SCHEMA)))
    except errors.DependentObjectsStillExist:
        return


def call(cursor: Cursor, *, worker: str, connections: int) -> None:
    """Set the limit of the worker's role; open connections stay."""
    cursor.execute(sql.SQL("SELECT {}(%s)").format(_name(worker)), (connections,))


def _name(worker: str) -> sql.Composed:
    return sql.SQL(".").join((sql.Identifier(SCHEMA), sql.Identifier(f"limit_{worker}")))
