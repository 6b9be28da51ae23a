"""TLS towards MySQL: one shared context for each authority, and for each host the last TLS session resumed.

A new context costs as much as ten connects; PyMySQL makes one for each connect.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from connection_governor.database.authorities import MODES, RDS_BUNDLE, rds_authorities, region_of
from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    import socket


class ResumingContext(ssl.SSLContext):
    """Resumes the last TLS session with the same host: a sixth of the time of opening, and a signature less for MySQL.

    A session is remembered only after a handshake that was verified in full, for that host's name and by this context.
    A server that no longer knows it falls back to a full handshake by itself.
    """

    _last: dict[str | bytes | None, ssl.SSLSession]

    def wrap_socket(  # type: ignore[override] # only as PyMySQL calls it
        self,
        sock: socket.socket,
        *,
        server_hostname: str | None = None,
        **options: Any,  # noqa: ANN401 - as in ssl
    ) -> ssl.SSLSocket:
        """Wrap as the standard library does, with the remembered session."""
        last = self._last.get(server_hostname)
        name = None if server_hostname is None else host_name(server_hostname)
        return super().wrap_socket(sock, server_hostname=name, session=last, **options)

    def remember(self, connected: ssl.SSLSocket) -> None:
        """Keep the session of a socket on which the server has sent something: TLS 1.3 sends tickets with it.

        A session that was resumed is resumed again, until the server wants a full handshake: copying the ticket that
        comes with each opening costs a tenth of the opening's CPU. MySQL and MariaDB accept a ticket more than once.
        """
        if connected.session_reused:
            return
        session = connected.session
        if session is not None:
            self._last[connected.server_hostname] = session


def context_for(mode: str, ca_path: str | None, host: str) -> ResumingContext | None:
    """Return the process's context for this mode, these authorities and this host's region; None for `off`.

    Args:
        mode: one of `authorities.MODES`. None of them falls back to plain text by itself.
        ca_path: PEM file of the authorities to trust; None for those of Amazon RDS (of the region in the host's name,
            if any: reading all of the bundle costs 12 ms CPU, its region's 3).
        host: the name or address to connect to.

    Raises:
        InvalidRequest: unknown mode (`tls`), or a file that is missing or holds no certificate (`tls_ca`).
    """
    return _shared_context(mode, ca_path, region_of(host))


@lru_cache(maxsize=16)
def _shared_context(mode: str, ca_path: str | None, region: str | None) -> ResumingContext | None:
    if mode not in MODES:
        raise InvalidRequest("tls", f"must be one of {', '.join(MODES)}")
    if mode == "off":
        return None
    # Not ssl.create_default_context: from Python 3.13 it is stricter than the certificates that MySQL makes for itself.
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    context._last = {}  # noqa: SLF001 - SSLContext is made by __new__, which takes no more arguments
    if mode == "verify":
        _trust(context, ca_path, region)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, ca_path: str | None, region: str | None) -> None:
    try:
        if ca_path is None and region is not None:
            context.load_verify_locations(cadata=rds_authorities(region))
        else:
            context.load_verify_locations(ca_path or RDS_BUNDLE)
    except OSError as error:  # SSLError, of a file without a certificate, is one of them
        raise InvalidRequest("tls_ca", f"{ca_path or RDS_BUNDLE} cannot be used: {error}") from error


def host_name(host: str) -> str | bytes:
    """Return a host as `socket` and `ssl` need it: of a text they load the codec of international names (1.5 ms)."""
    return host.encode() if host.isascii() else host
