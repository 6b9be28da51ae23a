"""Public alias of `connection_governor.mysql.fence`: the limits of a governed session."""

from connection_governor.database.fence import Fence
from connection_governor.mysql.fence import SessionStart

__all__ = ["Fence", "SessionStart"]
