"""What libpq is told before it signs in."""

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.errors import InvalidRequest
from connection_governor.postgresql.login import conninfo, parameters

PASSWORD, TOKEN = Login("worker", "hunter2"), Login("worker", "token", is_token=True)


def told(mode: str, login: Login) -> str:
    return conninfo(parameters(Target("db", 5432, tls=mode), "", ""), "127.0.0.1", login)


@pytest.mark.parametrize(
    ("mode", "version", "is_forbidden"),
    [
        ("off", 160_000, True),
        ("off", 150_018, False),
        ("require", 170_000, False),
        ("verify", 170_000, False),
    ],
)
def test_without_tls_no_password_goes_out_in_clear_text(
    mode: str, version: int, *, is_forbidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers in the server's place asks for the password, and has it; an older libpq knows no such rule."""
    monkeypatch.setattr(pq, "version", lambda: version)
    monkeypatch.setattr("connection_governor.postgresql.login.make_conninfo", lambda _, **given: str(given))
    assert ("'require_auth': '!password'" in told(mode, PASSWORD)) is is_forbidden


def test_a_token_is_refused_without_tls_by_name() -> None:
    """The author has to learn which variable to change."""
    with pytest.raises(InvalidRequest) as refused:
        told("off", TOKEN)
    assert refused.value.field == "DB_TLS"
    assert conninfo_to_dict(told("require", TOKEN))["password"] == "token"
