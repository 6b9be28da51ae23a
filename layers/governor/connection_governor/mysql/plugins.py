"""Which ways to sign in are answered: the server asks for one by its plugin's name, and may be an impostor.

The drivers answer all that they know. One of them sends the password as it is, and another one a hash from which it can
be computed. So a server, or a machine between, would only have to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pymysql import err
from pymysql.constants import CR

if TYPE_CHECKING:
    from connection_governor.database.credentials import Login

CLEAR_TEXT: Final = b"mysql_clear_password"
_NAMELESS: Final = b"mysql_old_password"
# Each proves that the client knows the password; sha256 and caching_sha2 may send it, encrypted by TLS or by RSA.
_PROVING: Final = frozenset(
    {b"", b"caching_sha2_password", b"client_ed25519", b"mysql_native_password", b"sha256_password"}
)


def is_answered(name: bytes, credentials: Login, *, is_secure: bool) -> bool:
    """Return whether these credentials may be sent in the way that the server asks for.

    Args:
        name: the plugin's.
        credentials: a token is sent in clear text, and nothing else is.
        is_secure: whether TLS has begun.
    """
    return name in _PROVING or (name == CLEAR_TEXT and credentials.is_token and is_secure)


def refused_plugin(name: bytes) -> err.OperationalError:
    """Return the error of a sign-in that the client gives up."""
    return err.OperationalError(
        CR.CR_AUTH_PLUGIN_CANNOT_LOAD,
        f"the server asks for {name.decode('latin-1')!r}, which would give the password away: refused; "
        "only a token of IAM is sent in clear text (DB_AUTH=iam), and only over TLS (DB_TLS)",
    )


def plugin_in(change: bytes) -> bytes:
    """Return the plugin that a server's change request names; one without a name means the oldest."""
    name, end, _ = change[1:].partition(b"\0")
    return name if end else _NAMELESS
