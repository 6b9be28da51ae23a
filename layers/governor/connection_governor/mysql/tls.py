"""TLS towards MySQL: one shared context for each authority, and for each host the last TLS session resumed.

A new context costs as much as ten connects; PyMySQL makes one for each connect.
"""

from __future__ import annotations

import base64
import os.path
import re
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from connection_governor.errors import InvalidRequest

if TYPE_CHECKING:
    import socket

RDS_BUNDLE = os.path.join(os.path.dirname(__file__), "rds-ca-bundle.pem")  # noqa: PTH118, PTH120  # pathlib costs 3 ms
MODES = ("verify", "require", "off")
"""`DB_TLS`: `verify` checks the certificate and the host's name, `require` only encrypts, `off` does without."""

_REGION = r"[a-z]+(?:-[a-z]+)+-[0-9]"
_RDS_HOST = re.compile(rf"\.(?:({_REGION})\.rds|rds\.({_REGION}))\.amazonaws\.com(?:\.cn)?$")  # China's put it last
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


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
        """Keep the session of a socket on which the server has sent something: TLS 1.3 sends tickets with it."""
        session = connected.session
        if session is not None:
            self._last[connected.server_hostname] = session


def context_for(mode: str, ca_path: str | None, host: str) -> ResumingContext | None:
    """Return the process's context for this mode, these authorities and this host's region; None for `off`.

    Args:
        mode: one of `MODES`. None of them falls back to plain text by itself.
        ca_path: PEM file of the authorities to trust; None for those of Amazon RDS (of the region in the host's name,
            if any: reading all of the bundle costs 12 ms CPU, its region's 3).
        host: the name or address to connect to.

    Raises:
        InvalidRequest: unknown mode (`tls`), or a file that is missing or holds no certificate (`tls_ca`).
    """
    named = _RDS_HOST.search(host)
    return _shared_context(mode, ca_path, named[1] or named[2] if named else None)


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


def rds_authorities(region: str) -> bytes:
    """Return the bundle's certificates, DER, of one region and of no region (RDS Proxy); all if it has none."""
    with open(RDS_BUNDLE, encoding="ascii") as file:  # noqa: PTH123  # as above
        bundle = [base64.b64decode(text) for text in _CERTIFICATE.findall(file.read())]
    own = [certificate for certificate in bundle if b"Amazon RDS %b " % region.encode() in certificate]
    if not own:
        return b"".join(bundle)
    return b"".join(own + [certificate for certificate in bundle if b"Amazon RDS " not in certificate])
