"""Sign in, step by step: as psycopg does, but so that each step is bounded and the login is reported before it is sent.

Two classes drive these steps: the blocking session and the asynchronous one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Wait

from connection_governor.database.authorities import authorities_path
from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.refusal import ask_for_sqlstate, refusal_of
from connection_governor.postgresql.wire import is_connected, second_descriptor

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Iterable, Mapping

    from psycopg.pq.abc import PGconn

    from connection_governor.database.credentials import Login
    from connection_governor.database.target import Target

STEPS_INTERVAL_S = 0.05
"""How often the driver of the steps looks at the time."""

_NO_FILE = os.path.join(os.devnull, "none")  # noqa: PTH118 - pathlib costs 3 ms
_SSL_MODES = {"verify": "verify-full", "require": "require", "off": "disable"}
_FIRST_WITH_REQUIRED_WAYS = 160_000
_BEFORE_LOGIN = frozenset({pq.ConnStatus.STARTED, pq.ConnStatus.MADE})
_IN_LOGIN = frozenset({pq.ConnStatus.AWAITING_RESPONSE, pq.ConnStatus.AUTH_OK})


class Steps(Protocol):
    """What the steps of one opening report to, and ask for the time."""

    def wire_made(self, wire: socket.socket) -> None:
        """Take the second descriptor of the socket."""

    def login_comes(self) -> None:
        """Note that the next step may send the login."""

    def login_refused(self) -> None:
        """Note that the server has refused the login."""

    def step_begins(self) -> None:
        """Give the step that begins its time."""

    def step_has_time(self) -> bool:
        """Return whether this step has time left."""


def parameters(target: Target, session_name: str, options: str) -> dict[str, Any]:
    """Return libpq's connection parameters, other than the address and the login."""
    return {
        "host": target.host,
        "port": target.port,
        "dbname": target.database or "postgres",
        "application_name": session_name,
        "client_encoding": "UTF8",
        "options": options,
        "sslmode": _SSL_MODES[target.tls],
        "sslrootcert": authorities_path(target.host, target.tls_ca) if target.tls == "verify" else _NO_FILE,
        "gssencmode": "disable",
        "target_session_attrs": "read-write" if target.role == "writer" else "any",
    }


def conninfo(common: Mapping[str, Any], address: str, login: Login) -> str:
    """Return the connection string for one address and one login.

    Without TLS no password goes out in clear text, though a server, or a machine between, may ask for that. A libpq
    before version 16 cannot be told so.

    Raises:
        InvalidRequest: a token would be sent without TLS.
    """
    ways = {}
    if common["sslmode"] == _SSL_MODES["off"]:
        if login.is_token:
            raise InvalidRequest("DB_TLS", "must be verify or require: a token is never sent without TLS")
        if pq.version() >= _FIRST_WITH_REQUIRED_WAYS:
            ways["require_auth"] = "!password"
    return make_conninfo("", **common, **ways, hostaddr=address, user=login.username, password=login.password)


def addresses(found: Iterable[tuple[Any, ...]]) -> list[str]:
    """Return the addresses that `getaddrinfo` found, without repetitions."""
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def signing_in(text: str, steps: Steps, *, with_tls: bool) -> Generator[tuple[int, Wait], int, PGconn]:
    """Connect and sign in; yield what to wait for, as psycopg's own generator does.

    Raises:
        psycopg.OperationalError: the server could not be reached in time, or refused.
    """
    pgconn = pq.PGconn.connect_start(text.encode())
    try:
        ask_for_sqlstate(pgconn, wanted=True)
        _refuse_if_bad(pgconn)
        wire = second_descriptor(pgconn.socket)
        steps.wire_made(wire)
        yield from _polled(pgconn, wire, steps, with_tls=with_tls)
        ask_for_sqlstate(pgconn, wanted=False)
        pgconn.nonblocking = 1
    except BaseException:
        pgconn.finish()
        raise
    return pgconn


def _polled(
    pgconn: PGconn, wire: socket.socket, steps: Steps, *, with_tls: bool
) -> Generator[tuple[int, Wait], int, None]:
    polled: int = pq.PollingStatus.WRITING  # as libpq asks: a new socket is waited for until it can be written
    status: int | None = None
    while polled != pq.PollingStatus.OK:
        if status != pgconn.status:
            status = pgconn.status
            steps.step_begins()
        wanted = Wait.R if polled == pq.PollingStatus.READING else Wait.W
        while not (yield pgconn.socket, wanted):
            if not steps.step_has_time():
                raise psycopg.errors.ConnectionTimeout("PostgreSQL did not answer in time")
        if _login_may_follow(pgconn, wire, with_tls=with_tls):
            steps.login_comes()
        in_login = pgconn.status in _IN_LOGIN
        polled = pgconn.connect_poll()
        if polled == pq.PollingStatus.FAILED:
            error = refusal_of(pgconn.get_error_message())
            if in_login and error.sqlstate is not None:
                steps.login_refused()
            raise error


def _refuse_if_bad(pgconn: PGconn) -> None:
    if pgconn.status == pq.ConnStatus.BAD:
        raise refusal_of(pgconn.get_error_message())


def _login_may_follow(pgconn: PGconn, wire: socket.socket, *, with_tls: bool) -> bool:
    """Return whether the next step may send the login: once the server is reached, and with TLS once that has begun."""
    if pgconn.status not in _BEFORE_LOGIN:
        return False
    return bool(pgconn.ssl_in_use) if with_tls else is_connected(wire)
