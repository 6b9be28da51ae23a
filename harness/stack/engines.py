"""The engines of databases that this machine can run, by their names in the variable ENGINE."""

from collections.abc import Mapping
from typing import Final

from harness.stack.database_server import DatabaseServer
from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.postgresql import PrivatePostgreSQL

SERVERS: Final[Mapping[str, type[DatabaseServer]]] = {
    server.ENGINE: server for server in (PrivateMySQL, PrivateMariaDB, PrivatePostgreSQL)
}
