"""The engines of databases that this machine can run, by their names in the variable ENGINE."""

from collections.abc import Mapping
from typing import Final

from harness.stack.database_server import DatabaseServer
from harness.stack.mariadb import PrivateMariaDB
from harness.stack.mysql import PrivateMySQL
from harness.stack.mysql_family import MySQLFamilyServer
from harness.stack.postgresql import PrivatePostgreSQL

MYSQL_FAMILY: Final[Mapping[str, type[MySQLFamilyServer]]] = {
    server.ENGINE: server for server in (PrivateMySQL, PrivateMariaDB)
}
SERVERS: Final[Mapping[str, type[DatabaseServer]]] = {**MYSQL_FAMILY, PrivatePostgreSQL.ENGINE: PrivatePostgreSQL}
