"""Roles that sign in: made with a password and a limit, and dropped with what was granted to them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from psycopg import errors, sql

from connection_governor.server.ports import SeedError

if TYPE_CHECKING:
    from psycopg import Cursor

    from connection_governor.database.credentials import Login

_POWERFUL: Final = """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = %s
"""
_SCRAM: Final = b"scram-sha-256"


def make(cursor: Cursor, login: Login, limit: int) -> None:
    """Create the role, or give one that exists this password and this limit.

    Raises:
        SeedError: the role has rights that no worker may have. The server would not hold a superuser to the limit.
    """
    found = cursor.execute(_POWERFUL, (login.username,)).fetchone()
    if found == (True,):
        raise SeedError(
            f"the role {login.username} is there already, and may do what no worker may (SUPERUSER, CREATEROLE, "
            "CREATEDB, REPLICATION or BYPASSRLS): choose another name"
        )
    # Hashed here: the server writes statements to its log.
    secret = cursor.connection.pgconn.encrypt_password(login.password.encode(), login.username.encode(), _SCRAM)
    cursor.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}").format(
            sql.SQL("ALTER" if found else "CREATE"),
            sql.Identifier(login.username),
            sql.Literal(secret.decode()),
            sql.Literal(limit),
        )
    )
    database = sql.Identifier(cursor.connection.info.dbname)
    with suppress(errors.InsufficientPrivilege):  # not the owner: as a rule PUBLIC may sign in
        cursor.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(login.username)))


def give_up(cursor: Cursor, name: str) -> None:
    """Take from a role what it was granted in this database; what it owns there goes to the administrator."""
    if cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
        return
    role = sql.Identifier(name)
    cursor.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))  # else REASSIGN and DROP OWNED are refused
    cursor.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
    cursor.execute(sql.SQL("DROP OWNED BY {}").format(role))


def drop(cursor: Cursor, name: str) -> None:
    """Drop a role; one that is still needed in another database is locked instead: nobody signs in with it."""
    role = sql.Identifier(name)
    with suppress(errors.UndefinedObject):
        try:
            cursor.execute(sql.SQL("DROP ROLE {}").format(role))
        except errors.DependentObjectsStillExist:
            cursor.execute(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(role))
