"""Install what the tests need before they start, so that long steps are visible."""

from harness.stack import dynamodb_local
from harness.stack.mariadb_programs import mariadb_programs
from harness.stack.mysql_programs import mysql_programs
from harness.stack.packages import require_program
from harness.stack.postgresql_programs import postgresql_programs
from harness.stack.tools import tool


def main() -> int:
    """Install what is missing; print nothing if nothing is."""
    mariadb_programs()
    mysql_programs()
    postgresql_programs()
    require_program("java", ["default-jre-headless"])
    dynamodb_local.fetch()
    tool("ministack", "ministack")
    tool("sam", "sam")
    tool("rie", "python")
    return 0
