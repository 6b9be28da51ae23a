"""What a private database server of any engine is: its folder, port and certificate, and its start and end."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.stack.processes import LOOPBACK, Server, free_port, kill, short_folder, start, stop, wait_until_ready
from harness.stack.tls import ServerCertificate, make_server_certificate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 20.0


@dataclass(slots=True)
class DatabaseServer(ABC):
    """A context manager: a server with a data folder of its own from enter to exit.

    An engine adds how its programs are found, how its data folder is made, its command line, and its first answer.

    Args:
        max_connections: the server's limit for ordinary users; the administrator's reserve comes on top.
        port: the port to listen on, or None for a free one.
        options: more options for the server's command line.
    """

    ENGINE: ClassVar[str]
    """The engine's name in the variable ENGINE."""
    LABEL: ClassVar[str]
    """The engine's name in messages and reports."""

    max_connections: int = 20
    port: int | None = None
    options: Sequence[str] = ()
    host: str = field(default=LOOPBACK, init=False)
    folder: Path = field(init=False)
    _certificate: ServerCertificate = field(init=False, repr=False)
    _server: Server | None = field(default=None, init=False, repr=False)
    _on_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)

    def __enter__(self) -> Self:
        """Make the data folder and start the server."""
        with contextlib.ExitStack() as started:
            self._find_programs()
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
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "server.log"

    @property
    def pids(self) -> list[int]:
        """The running server's processes, the one that listens first."""
        return [] if self._server is None else [self._server.pid]

    def start(self) -> None:
        """Start the server on the existing data; do nothing if it runs."""
        if self._server is None or not self._server.alive():
            self._server = self._launch()
            wait_until_ready(self._server, self._answers, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop the server in good order; its data stays until exit."""
        if self._server is not None:
            stop(self._server, grace_s=STOP_GRACE_S)
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

    @abstractmethod
    def root(self, database: str | None = None) -> Any:  # noqa: ANN401 - each driver's own connection
        """Return a new connection with all rights, in autocommit, by the local socket."""

    @abstractmethod
    def create_administrator(self, name: str, password: str) -> None:
        """Create the user that the seed signs in as, with the rights of Amazon RDS's administrator."""

    @abstractmethod
    def execute(self, *statements: str) -> None:
        """Run statements as the administrator, on a connection that is closed again."""

    @abstractmethod
    def create_user(
        self,
        name: str,
        password: str,
        *,
        max_user_connections: int | None = None,
        require_ssl: bool = True,
        grants: Sequence[str] = (),
    ) -> None:
        """Create a user that may connect from any host, in place of an existing one.

        Args:
            name: the user's name.
            password: the user's password.
            max_user_connections: the user's own limit, or None for the server's alone.
            require_ssl: whether the server refuses the user without TLS.
            grants: rights and where they hold, in the engine's words, such as "SELECT ON app.*".
        """

    @abstractmethod
    def version(self) -> str:
        """Return the server's version, as it names itself."""

    def release(self) -> str:
        """Return the numbers of the version, such as `9.7.4`."""
        return self.version().split()[0].split("-")[0]

    @abstractmethod
    def _find_programs(self) -> None:
        """Find the engine's programs, or get them."""

    @abstractmethod
    def _install(self) -> None:
        """Make the data folder."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the server's command line."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server answers the administrator."""

    def _launch(self) -> Server:
        return start(self.LABEL, self._command(), log=self.log)
