"""What a report says of each engine."""

from typing import Final

REFUSALS: Final = {
    "mysql": "errors 1040, 1226",
    "mariadb": "errors 1040, 1226",
    "postgresql": "SQLSTATE 53300",
}
"""How a server refuses a connection above its limits."""

LAST_LINE: Final = {
    "mysql": "One too many would be refused with error 1226, which counts as 1040 here.",
    "mariadb": "One too many would be refused with error 1226, which counts as 1040 here.",
    "postgresql": "One too many would be refused with SQLSTATE 53300, which the server's log counts.",
}
"""What the limit of the workers' own user shows."""
