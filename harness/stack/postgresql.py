"""A private PostgreSQL on loopback: own data folder, own certificate authority, own limit of connections."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

import psycopg
from psycopg import sql

from harness.errors import StackError
from harness.stack.database_server import STOP_GRACE_S, DatabaseServer
from harness.stack.postgresql_programs import Programs, postgresql_programs
from harness.stack.processes import Server, as_user, children, start, wait_until_ended

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from psycopg.rows import TupleRow

ADMINISTRATOR: Final = "postgres"
RESERVED: Final = 3  # connections for the administrator alone, as PostgreSQL's default has it
WITHOUT_TLS: Final = "without_tls"
# The first that this machine has: Debian's package makes the first, every system has the second.
ACCOUNTS: Final = ("postgres", "nobody")
# Who may come: the administrator by the socket, which only this folder's owner reaches, the others by TCP.
ACCESS: Final = f"""
local     all  {ADMINISTRATOR}               trust
hostssl   all  all            127.0.0.1/32  scram-sha-256
hostnossl all  +{WITHOUT_TLS}   127.0.0.1/32  scram-sha-256
"""


@dataclass(slots=True)
class PrivatePostgreSQL(DatabaseServer):
    """A private PostgreSQL: the system's own, or one unpacked below build/tools.

    PostgreSQL refuses to run as root. Where this process is root, the server runs as an account without rights: the
    folder is given to it, and an unpacked tree is copied there, since that account may not reach this checkout.
    """

    ENGINE: ClassVar[str] = "postgresql"
    LABEL: ClassVar[str] = "PostgreSQL"

    _programs: Programs = field(init=False, repr=False)
    _account: str | None = field(default=None, init=False, repr=False)

    @property
    def pids(self) -> list[int]:
        """The running server's processes: the one that listens, and one for each session and task."""
        return [] if self._server is None else [self._server.pid, *children(self._server.pid)]

    def root(self, database: str | None = None) -> psycopg.Connection[TupleRow]:
        """Return a new connection with all rights, in autocommit, by the local socket."""
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user=ADMINISTRATOR,
            dbname=database or "postgres",
            autocommit=True,
        )

    def create_administrator(self, name: str, password: str) -> None:
        """Create the role that the seed signs in as: no superuser, as on RDS."""
        self.create_user(name, password)
        self.execute(f"ALTER ROLE {name} CREATEROLE CREATEDB")

    def execute(self, *statements: str, database: str | None = None) -> None:
        """Run statements as the administrator, on a connection to a database that is closed again."""
        with contextlib.closing(self.root(database)) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def create_user(
        self,
        name: str,
        password: str,
        *,
        max_user_connections: int | None = None,
        require_ssl: bool = True,
        grants: Sequence[str] = (),
        database: str | None = None,
    ) -> None:
        """Create a role that may sign in by TCP: see the base.

        Args:
            name: the role's name.
            password: its password.
            max_user_connections: its CONNECTION LIMIT, or None for the server's alone.
            require_ssl: whether the server refuses the role without TLS.
            grants: what to grant, such as "SELECT ON stock" or "pg_monitor".
            database: where the grants hold.
        """
        self._drop_user(name)
        limit = -1 if max_user_connections is None else max_user_connections
        role = sql.Identifier(name)
        created = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} CONNECTION LIMIT {}")
        with contextlib.closing(self.root(database)) as connection:
            connection.execute(created.format(role, sql.Literal(password), sql.Literal(limit)))
            if not require_ssl:
                self._admit_without_tls(connection, role)
            for grant in grants:
                connection.execute(f"GRANT {grant} TO {role.as_string(connection)}".encode())

    def version(self) -> str:
        """Return the server's version, as it names itself."""
        with contextlib.closing(self.root()) as connection:
            (version,) = connection.execute("SHOW server_version").fetchone() or ("",)
        return str(version)

    def stop(self) -> None:
        """Stop the server in good order: its sessions are ended, its data stays until exit."""
        if self._server is not None and self._server.alive():
            os.kill(self._server.pid, signal.SIGINT)  # SIGTERM, which others understand, waits for the sessions' end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.process.wait(STOP_GRACE_S)
        DatabaseServer.stop(self)

    def kill(self) -> None:
        """Kill the server, as a crash of the machine would; its data stays until exit."""
        if self._server is not None:
            os.kill(self._server.pid, signal.SIGSTOP)  # so that no session starts between the look and the kill
            sessions = children(self._server.pid)  # each in a process group of its own
            DatabaseServer.kill(self)
            for each in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            wait_until_ended(sessions, timeout_s=STOP_GRACE_S)  # they hold the data folder's shared memory

    def _find_programs(self) -> None:
        self._programs = postgresql_programs()

    def _install(self) -> None:
        if os.geteuid() == 0:
            self._give_folder_away()
        options = ["--auth=reject", "--encoding=UTF8", "--no-locale", "--no-sync", f"--username={ADMINISTRATOR}"]
        done = subprocess.run(
            [str(self._programs.folder / "initdb"), f"--pgdata={self._data}", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self._programs.environment,
            **as_user(self._account),
        )
        if done.returncode != 0:
            raise StackError(f"PostgreSQL's data folder could not be made:\n{done.stdout}{done.stderr}")
        (self._data / "pg_hba.conf").write_text(ACCESS)

    def _give_folder_away(self) -> None:
        self._account = _unprivileged_account()
        if self._programs.tree is not None:
            copy = self.folder / "programs"
            shutil.copytree(self._programs.tree, copy, symlinks=True)
            self._programs = self._programs.moved(copy)
        for path in (self.folder, *self.folder.iterdir()):  # files that were copied are readable as they are
            shutil.chown(path, self._account)

    def _command(self) -> list[str]:
        tls = self._certificate
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.folder,
            "ssl": "on",
            "ssl_cert_file": tls.certificate,
            "ssl_key_file": tls.key,
            "max_connections": self.max_connections + RESERVED,
            "superuser_reserved_connections": RESERVED,
            "shared_buffers": "32MB",
            "fsync": "off",
            "jit": "off",
            "log_connections": "on",
            "log_line_prefix": "%e %u ",  # SQLSTATE and role, by which logins and refusals are counted
        }
        given = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs.folder / "postgres"), "-D", str(self._data), *given, *self.options]

    def _launch(self) -> Server:
        return start(
            self.LABEL,
            self._command(),
            log=self.log,
            env=self._programs.environment,
            cwd=self.folder,
            user=self._account,
        )

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.root().close()
            return True
        return False

    def _drop_user(self, name: str) -> None:
        """Drop a role if it exists; what it owns becomes the administrator's."""
        with contextlib.closing(self.root()) as connection:
            if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
                return
            databases = connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
        role = sql.Identifier(name)
        for (database,) in databases:
            with contextlib.closing(self.root(database)) as connection:
                owner = sql.Identifier(ADMINISTRATOR)
                connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(role, owner))
                connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        with contextlib.closing(self.root()) as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(role))

    @staticmethod
    def _admit_without_tls(connection: psycopg.Connection[TupleRow], role: sql.Identifier) -> None:
        group = sql.Identifier(WITHOUT_TLS)
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (WITHOUT_TLS,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(group))
        connection.execute(sql.SQL("GRANT {} TO {}").format(group, role))

    @property
    def _data(self) -> Path:
        return self.folder / "data"


def _unprivileged_account() -> str:
    """Return the account that the server runs as where this process is root.

    Raises:
        StackError: the machine has none.
    """
    for name in ACCOUNTS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise StackError(f"PostgreSQL does not run as root, and this machine has no account {' or '.join(ACCOUNTS)}")
