"""Why a server refused a login: the error class of psycopg, with its SQLSTATE.

libpq keeps no fields of a failed login's error, only its text in the server's language. In its verbose form the
SQLSTATE stands at a fixed place. psycopg has no call for that form, so libpq's own function is called, in the library
that psycopg has loaded.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

_VERBOSE, _DEFAULT = 2, 1
_FIRST_LINE = re.compile(r"^(?P<before>[^\n]*?:  )(?P<sqlstate>[0-9A-Z]{5}): (?P<after>[^\n]*)")
_LOCATION = re.compile(r"\n\w[^\n]*: {2}\w+, \w+\.c:\d+$")
DENIED = "28P01"
_NOT_AUTHORIZED = "28000"
_TOO_FAST = "53400"


def ask_for_sqlstate(pgconn: PGconn, *, wanted: bool) -> None:
    """Have libpq put the SQLSTATE into the text of an error, or no longer."""
    function, address = _set_verbosity(), getattr(pgconn, "pgconn_ptr", None)
    if function is not None and address:
        function(address, _VERBOSE if wanted else _DEFAULT)


@cache
def _set_verbosity() -> Any:  # noqa: ANN401 - a C function
    import ctypes  # noqa: PLC0415 - the compiled psycopg does without

    try:
        # A name that is defined by the library of a compiled psycopg is found by way of its extension.
        compiled = sys.modules[pq.PGconn.__module__].__file__
        library = ctypes.CDLL(compiled if pq.__impl__ != "python" else _libpq_name())
        function = library.PQsetErrorVerbosity
    except (AttributeError, KeyError, OSError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return function


def _libpq_name() -> str:
    from psycopg.pq import _pq_ctypes  # noqa: PLC0415 - only where it is loaded by now

    return str(vars(_pq_ctypes)["libname"])


def refusal_of(text: str) -> psycopg.OperationalError:
    """Return the error of a login that failed with this text of libpq's."""
    found = _FIRST_LINE.match(text)
    if found is None:
        return psycopg.OperationalError(text)
    sqlstate = found["sqlstate"]
    rest = _LOCATION.sub("", text[found.end() :].rstrip())
    message = found["before"].strip() + " " + found["after"] + rest
    try:
        kind = psycopg.errors.lookup(sqlstate)
    except KeyError:
        kind = psycopg.OperationalError
    error = kind(message) if issubclass(kind, psycopg.OperationalError) else psycopg.OperationalError(message)
    error.sqlstate = sqlstate
    return error


def is_denied(error: Exception) -> bool:
    """Return whether the server has denied the password."""
    return isinstance(error, psycopg.Error) and error.sqlstate == DENIED


def is_token_denied(error: Exception) -> bool:
    """Return whether the server has denied a token: RDS checks it by PAM, whose refusal has a code of its own."""
    return isinstance(error, psycopg.Error) and error.sqlstate in {DENIED, _NOT_AUTHORIZED}


def is_too_fast(error: Exception) -> bool:
    """Return whether Aurora DSQL has refused a connection for the rate of new ones."""
    return isinstance(error, psycopg.Error) and error.sqlstate == _TOO_FAST
