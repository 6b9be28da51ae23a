"""What MySQL and MariaDB have in common: their protocol, their accounts, and most of their options."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pymysql

from harness.errors import StackError
from harness.stack.database_server import DatabaseServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor


@dataclass(slots=True)
class MySQLFamilyServer(DatabaseServer):
    """A private server that speaks MySQL's protocol; it keeps one more connection for root."""

    IS_MARIADB: ClassVar[bool]
    KILL_RIGHT: ClassVar[str]
    """The right to end other users' sessions."""

    @property
    def is_mariadb(self) -> bool:
        """Whether this is a MariaDB, whose SQL differs in places."""
        return self.IS_MARIADB

    @property
    def socket(self) -> Path:
        """The local socket, for root."""
        return self.folder / "s.sock"

    def root(self, database: str | None = None) -> Connection[Cursor]:
        """Return a new connection with all rights, in autocommit, by the local socket; the server counts it as one."""
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)

    def create_administrator(self, name: str, password: str) -> None:
        """Create the user that the seed signs in as; unlike RDS's, it lacks no right."""
        self.create_user(name, password, grants=["ALL ON *.*"])
        self.execute(f"GRANT GRANT OPTION ON *.* TO '{name}'@'%'")

    def execute(self, *statements: str) -> None:
        """Run statements as root, on a connection that is closed again."""
        with contextlib.closing(self.root()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def create_user(
        self,
        name: str,
        password: str,
        *,
        max_user_connections: int | None = None,
        require_ssl: bool = True,
        grants: Sequence[str] = (),
    ) -> None:
        """Create a user that may connect from any host: see the base; the server chooses the sign-in plugin.

        Without TLS MySQL's caching_sha2_password sends its RSA key, which a client needs a package for.
        """
        user, key = (pymysql.converters.escape_string(text) for text in (name, password))
        limit = f" WITH MAX_USER_CONNECTIONS {max_user_connections:d}" if max_user_connections is not None else ""
        tls = " REQUIRE SSL" if require_ssl else ""
        account = f"'{user}'@'%'"
        self.execute(
            f"DROP USER IF EXISTS {account}",  # MySQL has no CREATE OR REPLACE USER
            f"CREATE USER {account} IDENTIFIED BY '{key}'{tls}{limit}",
            *(f"GRANT {grant} TO {account}" for grant in grants),
        )

    def status(self, name: str) -> int:
        """Return a counter of SHOW GLOBAL STATUS, such as `Connection_errors_max_connections`."""
        row = self._first_row("SHOW GLOBAL STATUS LIKE %s", name)
        if row is None:
            raise StackError(f"{self.LABEL} has no status variable {name}")
        return int(row[1])

    def version(self) -> str:
        """Return the server's version, as it names itself."""
        row = self._first_row("SELECT VERSION()")
        assert row is not None
        return str(row[0])

    @abstractmethod
    def _install_command(self) -> list[str]:
        """Return the command that makes the data folder."""

    @abstractmethod
    def _own_options(self) -> Iterator[str]:
        """Yield the options that only this engine needs or knows."""

    @abstractmethod
    def _places(self) -> Iterator[str]:
        """Yield the options that say where the engine's own files are."""

    @abstractmethod
    def _program(self) -> list[str]:
        """Return the start of the server's command line."""

    def _install(self) -> None:
        done = subprocess.run(
            self._install_command(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise StackError(f"{self.LABEL}'s data folder could not be made:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str]:
        tls = self._certificate
        return [
            *(*self._program(), *self._common()),
            *(f"--socket={self.socket}", f"--pid-file={self.folder / 'p.pid'}"),
            *(f"--port={self.port}", f"--bind-address={self.host}", "--skip-name-resolve"),
            *(f"--ssl-ca={tls.authority}", f"--ssl-cert={tls.certificate}", f"--ssl-key={tls.key}"),
            *(f"--max-connections={self.max_connections}", "--performance-schema=ON"),
            *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"),
            *(*self._own_options(), *self.options),
        ]

    def _common(self) -> Iterator[str]:
        """Yield what the installer and the server need alike."""
        yield "--no-defaults"
        yield f"--datadir={self.folder / 'data'}"
        # A starting server deletes every #sql* file of its temporary folder: in a shared one, also those of others.
        yield f"--tmpdir={self.folder / 'tmp'}"
        if os.geteuid() == 0:
            yield "--user=root"
        yield from self._places()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, pymysql.err.OperationalError):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:  # PyMySQL leaves one open when refused
                probe.connect(str(self.socket))
            self.root().close()
            return True
        return False

    def _first_row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with contextlib.closing(self.root()) as connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchone()
