"""A private MariaDB on loopback: own data folder, own certificate authority, own limit of connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from harness.stack.mariadb_programs import Programs, mariadb_programs
from harness.stack.mysql_family import MySQLFamilyServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class PrivateMariaDB(MySQLFamilyServer):
    """A private MariaDB: the system's own, or one unpacked below build/tools."""

    ENGINE: ClassVar[str] = "mariadb"
    LABEL: ClassVar[str] = "MariaDB"
    IS_MARIADB: ClassVar[bool] = True
    KILL_RIGHT: ClassVar[str] = "CONNECTION ADMIN ON *.*"

    _programs: Programs = field(init=False, repr=False)

    def _find_programs(self) -> None:
        self._programs = mariadb_programs()

    def _install_command(self) -> list[str]:
        installer = str(self._programs.installer)
        return [installer, *self._common(), "--auth-root-authentication-method=normal", "--skip-test-db"]

    def _program(self) -> list[str]:
        return [str(self._programs.server)]

    def _own_options(self) -> Iterator[str]:
        yield from ()

    def _places(self) -> Iterator[str]:
        if self._programs.base is not None:
            yield f"--basedir={self._programs.base}"
