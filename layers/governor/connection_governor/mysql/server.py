"""What a session learns at its opening: which MySQL server it is on, and what a reset must restore.

A reset must restore the roles of the sign-in: COM_RESET_CONNECTION keeps what SET ROLE chose since. They are named,
since `SET ROLE DEFAULT` leaves out what `activate_all_roles_on_login` activated, and MariaDB does not know it. The same
goes for MySQL's resource group, where the user may change it: each session begins in `USR_default`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connection_governor.database.server import DatabaseServer

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_ONLY_ERRORS: Final = frozenset({1290, 1792, 1836})
"""What a server that has become read-only says to a write."""

_ON = {"1", "ON"}
# Both terms of the difference are taken at the statement's start, so it is the same for the life of a server process.
_STARTED = "UNIX_TIMESTAMP() - (SELECT variable_value FROM {table} WHERE variable_name = 'Uptime')"
_OF_MARIADB = f"SELECT @@server_uid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="information_schema.global_status"
)
_OF_MYSQL = f"SELECT @@server_uuid, @@read_only, @@innodb_read_only, {_STARTED}".format(
    table="performance_schema.global_status"
)

_ROLES_OF_MARIADB = "SELECT CURRENT_ROLE(), 0"
_ROLES_OF_MYSQL = """
    SELECT CURRENT_ROLE(), EXISTS(
        SELECT * FROM information_schema.user_privileges WHERE privilege_type LIKE 'RESOURCE!_GROUP!_%' ESCAPE '!')
"""
_VERSION_WITHOUT_ROLES = "5."


def server_query(*, is_mariadb: bool) -> str:
    """Return the query that a session learns its server by; it needs no right."""
    return _OF_MARIADB if is_mariadb else _OF_MYSQL


def server_of(row: Sequence[Any]) -> DatabaseServer:
    """Return the server that the query's only row describes."""
    name, read_only, innodb_read_only, started_s = row
    is_writer = not {str(read_only).upper(), str(innodb_read_only).upper()} & _ON
    return DatabaseServer(str(name), int(started_s), is_writer)


def has_roles(version: str, *, is_mariadb: bool) -> bool:
    """Return whether a server of this version, as its greeting names it, knows roles."""
    return is_mariadb or not version.startswith(_VERSION_WITHOUT_ROLES)  # MariaDB's greeting may begin with 5.5.5


def roles_query(*, is_mariadb: bool) -> str:
    """Return the query for the active roles, and for whether the user may change its resource group."""
    return _ROLES_OF_MARIADB if is_mariadb else _ROLES_OF_MYSQL


def restoring_statements(row: Sequence[Any], *, is_mariadb: bool) -> list[str]:
    """Return the statements that restore, after a reset, what the only row of `roles_query` describes."""
    roles, may_change_group = row
    if is_mariadb:
        return ["SET ROLE NONE" if roles is None else f"SET ROLE `{roles.replace('`', '``')}`"]
    return [
        f"SET ROLE {roles}",
        *(["SET RESOURCE GROUP USR_default"] if may_change_group else []),
    ]  # MySQL has quoted it
