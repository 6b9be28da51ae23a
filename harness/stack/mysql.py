"""A private MySQL on loopback: own data folder, own certificate authority, own limit of connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from harness.stack.mysql_family import MySQLFamilyServer
from harness.stack.mysql_programs import Programs, mysql_programs

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class PrivateMySQL(MySQLFamilyServer):
    """A private MySQL of the tree below build/tools, or of the one that MYSQL_ROOT names."""

    ENGINE: ClassVar[str] = "mysql"
    LABEL: ClassVar[str] = "MySQL"
    IS_MARIADB: ClassVar[bool] = False
    KILL_RIGHT: ClassVar[str] = "CONNECTION_ADMIN ON *.*"

    _programs: Programs = field(init=False, repr=False)

    def _find_programs(self) -> None:
        self._programs = mysql_programs()

    def _install_command(self) -> list[str]:
        return [*self._program(), *self._common(), "--initialize-insecure", "--innodb-redo-log-capacity=16M"]

    def _program(self) -> list[str]:
        return self._programs.command

    def _own_options(self) -> Iterator[str]:
        yield "--mysqlx=OFF"
        yield "--secure-file-priv=NULL"  # the packaged default is a folder that no package makes
        yield "--innodb-redo-log-capacity=64M"
        yield "--sync-binlog=0"

    def _places(self) -> Iterator[str]:
        base = self._programs.base
        yield f"--basedir={base}"
        yield f"--lc-messages-dir={base / 'share/mysql'}"
        yield f"--plugin-dir={base / 'lib/mysql/plugin'}"
