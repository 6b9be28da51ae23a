"""Grants AWS Lambda functions the right to hold a MySQL connection: never more than the database can take.

from connection_governor import Governor

governor = Governor.from_env()


def handler(event, context):
    with governor.connection("orders", timeout=2.0, context=context) as connection:
        ...
"""

from connection_governor.client.governor import Governor
from connection_governor.core.lease import Lease
from connection_governor.database.fence import Fence
from connection_governor.errors import (
    GovernorError,
    GovernorUnavailable,
    InvalidRequest,
    LeaseLost,
    NoConnectionsLeft,
    UnknownDatabase,
)

__version__ = "0.1.0"

__all__ = [
    "Fence",
    "Governor",
    "GovernorError",
    "GovernorUnavailable",
    "InvalidRequest",
    "Lease",
    "LeaseLost",
    "NoConnectionsLeft",
    "UnknownDatabase",
]
