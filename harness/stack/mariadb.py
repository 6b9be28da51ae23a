"""A private MariaDB on loopback: own data folder, own certificate authority, own limit of connections."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pymysql

from harness.errors import StackError
from harness.stack.mariadb_programs import Programs, mariadb_programs
from harness.stack.processes import LOOPBACK, Server, free_port, kill, short_folder, start, stop, wait_until_ready
from harness.stack.tls import ServerCertificate, make_server_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

START_TIMEOUT_S = 60.0


@dataclass(slots=True)
class PrivateMariaDB:
    """A context manager: a server with a data folder of its own from enter to exit.

    Args:
        max_connections: the server's limit for ordinary users; one more is kept for root.
        port: the port to listen on, or None for a free one.
        options: more options for the server, such as "--wait-timeout=30".
    """

    max_connections: int = 20
    port: int | None = None
    options: Sequence[str] = ()
    host: str = field(default=LOOPBACK, init=False)
    folder: Path = field(init=False)
    _programs: Programs = field(init=False, repr=False)
    _certificate: ServerCertificate = field(init=False, repr=False)
    _server: Server | None = field(default=None, init=False, repr=False)
    _on_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)

    def __enter__(self) -> Self:
        """Make the data folder and start the server."""
        with contextlib.ExitStack() as started:
            self._programs = mariadb_programs()
            self.folder = started.enter_context(short_folder("gov-db-"))
            self._certificate = make_server_certificate(self.folder)
            self.port = free_port(self.port)
            (self.folder / "tmp").mkdir()
            self._install()
            started.callback(self.stop)
            self.start()
            self._on_exit = started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and remove its data."""
        self._on_exit.close()

    @property
    def ca_path(self) -> Path:
        """The certificate authority that clients trust."""
        return self._certificate.authority

    @property
    def socket(self) -> Path:
        """The local socket, for root."""
        return self.folder / "s.sock"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start the server on the existing data; do nothing if it runs."""
        if self._server is None or not self._server.alive():
            self._server = start("MariaDB", self._command(), log=self.log)
            wait_until_ready(self._server, self._answers, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop the server in good order; its data stays until exit."""
        if self._server is not None:
            stop(self._server, grace_s=10)
            self._server = None

    def kill(self) -> None:
        """Kill the server, as a crash of the machine would; its data stays until exit."""
        if self._server is not None:
            kill(self._server)
            self._server = None

    def restart(self) -> None:
        """Stop and start: same port, same data."""
        self.stop()
        self.start()

    def root(self, database: str | None = None) -> Connection[Cursor]:
        """Return a new connection with all rights, in autocommit, by the local socket; the server counts it as one."""
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database, autocommit=True)

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
        """Create a user that may connect from any host.

        Args:
            name: the user's name.
            password: the user's password.
            max_user_connections: the user's own limit, or None for the server's alone.
            require_ssl: whether the server refuses the user without TLS.
            grants: rights and where they hold, such as "SELECT ON app.*".
        """
        user, key = (pymysql.converters.escape_string(text) for text in (name, password))
        limit = f" WITH MAX_USER_CONNECTIONS {max_user_connections:d}" if max_user_connections is not None else ""
        tls = " REQUIRE SSL" if require_ssl else ""
        account = f"'{user}'@'%'"
        created = f"CREATE OR REPLACE USER {account} IDENTIFIED BY '{key}'{tls}{limit}"
        self.execute(created, *(f"GRANT {grant} TO {account}" for grant in grants))

    def status(self, name: str) -> int:
        """Return a counter of SHOW GLOBAL STATUS, such as `Connection_errors_max_connections`."""
        with contextlib.closing(self.root()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE %s", (name,))
            row = cursor.fetchone()
        if row is None:
            raise StackError(f"MariaDB has no status variable {name}")
        return int(row[1])

    def _install(self) -> None:
        command = [str(self._programs.installer), *self._common()]
        command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StackError(f"MariaDB's data folder could not be made:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str]:
        tls = self._certificate
        return [
            *(str(self._programs.server), *self._common()),
            *(f"--socket={self.socket}", f"--pid-file={self.folder / 'p.pid'}"),
            *(f"--port={self.port}", f"--bind-address={self.host}", "--skip-name-resolve"),
            *(f"--ssl-ca={tls.authority}", f"--ssl-cert={tls.certificate}", f"--ssl-key={tls.key}"),
            *(f"--max-connections={self.max_connections}", "--performance-schema=ON"),
            *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", *self.options),
        ]

    def _common(self) -> Iterator[str]:
        yield "--no-defaults"
        yield f"--datadir={self.folder / 'data'}"
        # A starting server deletes every #sql* file of its temporary folder: in a shared one, also those of others.
        yield f"--tmpdir={self.folder / 'tmp'}"
        if os.geteuid() == 0:
            yield "--user=root"
        if self._programs.base is not None:
            yield f"--basedir={self._programs.base}"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, pymysql.err.OperationalError):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:  # PyMySQL leaves one open when refused
                probe.connect(str(self.socket))
            self.root().close()
            return True
        return False
