"""The stored procedure with which the janitor's user sets the worker's limit, and can set nothing else.

`ALTER USER` needs a right that changes every password. A procedure runs with its definer's rights, for one number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from connection_governor.server.mysql import own_schema
from connection_governor.server.mysql.own_schema import SCHEMA

if TYPE_CHECKING:
    from pymysql.cursors import Cursor


def make(cursor: Cursor, *, worker: str, monitor: str) -> None:
    """Create the procedure for this worker, and let the janitor's user call it. Raises if MySQL refuses."""
    own_schema.make(cursor)
    cursor.execute(f"DROP PROCEDURE IF EXISTS {_name(worker)}")
    cursor.execute(
        f"""
        CREATE PROCEDURE {_name(worker)}(IN connections INT UNSIGNED) SQL SECURITY DEFINER
        BEGIN
            SET @governor_limit = CONCAT('ALTER USER ''{worker}''@''%%'' WITH MAX_USER_CONNECTIONS ', connections);
            PREPARE governor_limit FROM @governor_limit;
            EXECUTE governor_limit;
            DEALLOCATE PREPARE governor_limit;
        END
        """.replace("%%", "%")
    )
    cursor.execute(f"GRANT EXECUTE ON PROCEDURE {_name(worker)} TO %s@'%%'", (monitor,))


def remove(cursor: Cursor, *, worker: str) -> None:
    """Drop the procedure, and its schema if nothing else is in it."""
    cursor.execute(f"DROP PROCEDURE IF EXISTS {_name(worker)}")
    own_schema.remove_if_empty(cursor)


def call(cursor: Cursor, *, worker: str, connections: int) -> None:
    """Set the limit of the worker's user; open connections stay."""
    cursor.execute(f"CALL {_name(worker)}(%s)", (connections,))


def _name(worker: str) -> str:
    return f"{SCHEMA}.`limit_{worker}`"  # the template accepts letters, digits and underscores only
