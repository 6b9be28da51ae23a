"""The published sample's table `Employees` and its schema: created if missing, dropped only if the seed created them.

The table's comment records who created it, and whether its schema was created with it: a schema has no comment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pymysql import err
from pymysql.constants import ER

from connection_governor.server.mysql.own_schema import count_in

if TYPE_CHECKING:
    from pymysql.cursors import Cursor

EMPLOYEES: Final = ((1, "John", "Smith"), (2, "Jane", "Doe"), (3, "Bob", "Rogers"))
_TABLE_MADE: Final = "made by connection-governor"
_BOTH_MADE: Final = "made by connection-governor, with its schema"
_COMMENT: Final = """
    SELECT table_comment FROM information_schema.tables WHERE table_schema = %s AND table_name = 'Employees'
"""


def make(cursor: Cursor, schema: str) -> None:
    """Create and fill the table, and its schema; leave a table that exists as it is."""
    schema_made = _created(cursor, f"CREATE DATABASE `{schema}`", ER.DB_CREATE_EXISTS)
    columns = "EmployeeID INT AUTO_INCREMENT PRIMARY KEY, FirstName VARCHAR(50), LastName VARCHAR(50)"
    mark = _BOTH_MADE if schema_made else _TABLE_MADE
    table = f"CREATE TABLE `{schema}`.`Employees` ({columns}) COMMENT '{mark}'"
    if _created(cursor, table, ER.TABLE_EXISTS_ERROR):
        cursor.executemany(f"INSERT INTO `{schema}`.`Employees` VALUES (%s, %s, %s)", EMPLOYEES)  # noqa: S608  # pattern of the template


def remove(cursor: Cursor, schema: str) -> None:
    """Drop the table if the seed made it, and the schema if the seed made that and it holds nothing else."""
    cursor.execute(_COMMENT, (schema,))
    (mark,) = cursor.fetchone() or ("",)
    if mark not in (_TABLE_MADE, _BOTH_MADE):
        return
    if mark == _BOTH_MADE and count_in(cursor, schema) == 1:
        cursor.execute(f"DROP DATABASE `{schema}`")  # in one statement with the table: its comment is the only proof
    else:
        cursor.execute(f"DROP TABLE `{schema}`.`Employees`")


def _created(cursor: Cursor, statement: str, exists: int) -> bool:
    try:
        cursor.execute(statement)
    except err.MySQLError as refused:
        if refused.args[0] != exists:
            raise
        return False
    return True
