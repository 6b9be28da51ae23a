"""A refused login's SQLSTATE, from libpq's text in its verbose form."""

from __future__ import annotations

import psycopg
import pytest

from connection_governor.postgresql.refusal import is_denied, refusal_of

ENGLISH = (
    'connection to server at "db", port 5432 failed: FATAL:  28P01: password authentication failed for user "w"\n'
    "LOCATION:  auth_failed, auth.c:329\n"
)
GERMAN = (
    "Verbindung zum Server auf »db«, Port 5432 fehlgeschlagen: FATAL:  53300: zu viele Verbindungen für Rolle »w«\n"
    "ORT:  InitializeSessionUserId, miscinit.c:795\n"
)
WITH_HINT = "failed: FATAL:  57P03: the database system is starting up\nHINT:  Wait.\nLOCATION:  a_b, postmaster.c:1\n"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            ENGLISH,
            psycopg.errors.InvalidPassword,
            'connection to server at "db", port 5432 failed: FATAL: password authentication failed for user "w"',
        ),
        (
            GERMAN,
            psycopg.errors.TooManyConnections,
            "Verbindung zum Server auf »db«, Port 5432 fehlgeschlagen: FATAL: zu viele Verbindungen für Rolle »w«",
        ),
        (
            WITH_HINT,
            psycopg.errors.CannotConnectNow,
            "failed: FATAL: the database system is starting up\nHINT:  Wait.",
        ),
    ],
)
def test_the_error_has_its_class_and_no_place_in_the_source(text: str, kind: type[Exception], message: str) -> None:
    """A caller could not tell a full server from a wrong password, least of all in another language."""
    error = refusal_of(text)
    assert (type(error), str(error)) == (kind, message)


@pytest.mark.parametrize("code", ["42501", "28000", "ZZ999"])
def test_any_refusal_is_an_operational_error(code: str) -> None:
    """A worker that catches what `Governor.connection` documents would miss it."""
    error = refusal_of(f"failed: FATAL:  {code}: no\n")
    assert isinstance(error, psycopg.OperationalError)
    assert error.sqlstate == code


def test_a_failure_without_the_servers_word_has_no_sqlstate() -> None:
    """A closed port would look like an answer, and its address would be the last that is tried."""
    error = refusal_of("connection failed: Connection refused\n\tIs the server running?\n")
    assert (type(error), error.sqlstate) == (psycopg.OperationalError, None)


def test_only_a_wrong_password_is_a_denial() -> None:
    """The secret would be read again for each try at a full server."""
    assert is_denied(refusal_of(ENGLISH))
    assert not any(is_denied(error) for error in (refusal_of(GERMAN), OSError(), psycopg.OperationalError("28P01")))
