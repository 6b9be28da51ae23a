"""What the worker's role may do with the tables of its database: those that are there, and those that come later.

PostgreSQL grants a right on later tables for one creator at a time (`ALTER DEFAULT PRIVILEGES FOR ROLE`), and lets only
an owner grant. The roles that may read or write everything (`pg_read_all_data`) open each database of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import errors, sql

from connection_governor.server.postgresql import limit_function

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Cursor

_RIGHTS: Final = {"none": (), "read": ("SELECT",), "write": ("SELECT", "INSERT", "UPDATE", "DELETE")}
_OWN: Final = "nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %s)"
_SCHEMAS: Final = f"SELECT nspname FROM pg_namespace WHERE {_OWN}"  # noqa: S608 - a constant
_CREATORS: Final = f"""
    SELECT current_user::text UNION SELECT pg_get_userbyid(relowner)::text
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OWN}
"""  # noqa: S608 - the same


def grant(cursor: Cursor, worker: str, rights: str) -> bool:
    """Grant the worker `rights` on all tables, and revoke what an earlier seed granted beyond them.

    Returns:
        Whether the administrator may grant them on all of today's tables, and on what their owners make later.
    """
    wanted = _RIGHTS[rights]
    beyond = tuple(right for right in _RIGHTS["write"] if right not in wanted)
    schemas, creators = _names(cursor, _SCHEMAS), _names(cursor, _CREATORS)
    for statement in _changes("REVOKE", beyond, "FROM", worker, schemas, creators):
        _done(cursor, statement)  # what another owner has granted stays granted
    done = [_done(cursor, statement) for statement in _changes("GRANT", wanted, "TO", worker, schemas, creators)]
    return all(done)


def _changes(
    verb: str, rights: tuple[str, ...], preposition: str, worker: str, schemas: list[str], creators: list[str]
) -> Iterator[sql.Composed]:
    """Yield the statements that grant or revoke these rights, with what SELECT and INSERT need beside a table's."""
    kinds = {"TABLES": rights} if rights else {}
    if "INSERT" in rights:
        kinds["SEQUENCES"] = ("USAGE",)  # of a column with a default from a sequence
    if "SELECT" in rights:
        kinds["SCHEMAS"] = ("USAGE",)
    whom = sql.SQL(" {} {}").format(sql.SQL(preposition), sql.Identifier(worker))
    for kind, what in kinds.items():
        change = sql.SQL(f"{verb} {', '.join(what)} ON ")  # of the words above
        for schema in map(sql.Identifier, schemas):
            place = sql.SQL("SCHEMA {}" if kind == "SCHEMAS" else f"ALL {kind} IN SCHEMA {{}}").format(schema)
            yield change + place + whom
        for creator in map(sql.Identifier, creators):
            yield sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} ").format(creator) + change + sql.SQL(kind) + whom


def _names(cursor: Cursor, query: str) -> list[str]:
    cursor.execute(query.encode(), (limit_function.SCHEMA,))
    return [name for (name,) in cursor.fetchall()]


def _done(cursor: Cursor, statement: sql.Composed) -> bool:
    try:
        cursor.execute(statement)
    except errors.InsufficientPrivilege:
        return False
    return True
