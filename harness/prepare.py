"""Gets everything that the tests need before they start, so that what takes long is seen."""

from harness.stack import dynamodb_local
from harness.stack.mariadb_programs import mariadb_programs
from harness.stack.packages import require_program
from harness.stack.tools import tool


def main() -> int:
    """Installs what is missing; says nothing where all is there."""
    mariadb_programs()
    require_program("java", ["default-jre-headless"])
    dynamodb_local.fetch()
    tool("ministack", "ministack")
    tool("sam", "sam")
    tool("rie", "python")
    return 0
