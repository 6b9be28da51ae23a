"""A database's user and password, as Secrets Manager has them and as they change."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from pymysql.err import OperationalError

from connection_governor.core.deadline import Deadline
from connection_governor.database.credentials import DatabaseCredentials, Login
from connection_governor.errors import InvalidRequest
from connection_governor.mysql.connect import is_denied

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:orders"


class Vault:
    """Secrets Manager, as far as it matters: one secret, and a count of the times it was read."""

    def __init__(self, *passwords: str) -> None:
        self._passwords = list(passwords)
        self.reads = 0

    def __call__(self, arn: str, _deadline: Deadline | None = None) -> str:
        assert arn == ARN
        password = self._passwords[min(self.reads, len(self._passwords) - 1)]
        self.reads += 1
        return json.dumps({"username": "worker", "password": password, "engine": "mysql"})


def server(password: str, tried: list[str]) -> Callable[[Login], str]:
    """Return a MySQL that takes one password, and notes each that was tried."""

    def connect(credentials: Login) -> str:
        tried.append(credentials.password)
        if credentials.password != password:
            raise OperationalError(1045, "Access denied")
        return "session"

    return connect


def test_a_secret_is_read_once() -> None:
    """Reading it for each connection costs a request and its price in each invocation."""
    vault = Vault("old")
    credentials = DatabaseCredentials(vault, is_denied)
    assert credentials.get(ARN) == credentials.get(ARN) == Login("worker", "old")
    assert credentials.sign_in(ARN, server("old", [])) == "session"
    assert vault.reads == 1


def test_after_a_rotation_it_is_read_again_and_the_session_opens() -> None:
    """Without it, a warm environment fails for hours after each rotation."""
    vault, tried = Vault("old", "new"), list[str]()
    credentials = DatabaseCredentials(vault, is_denied)
    assert credentials.sign_in(ARN, server("new", tried)) == "session"
    assert (vault.reads, tried) == (2, ["old", "new"])
    assert credentials.get(ARN).password == "new"


def test_an_unchanged_secret_is_not_tried_twice() -> None:
    """A wrong secret costs each invocation two denials, and MySQL two sign-ins of its `max_connections`."""
    vault, tried = Vault("wrong"), list[str]()
    with pytest.raises(OperationalError, match="1045"):
        DatabaseCredentials(vault, is_denied).sign_in(ARN, server("right", tried))
    assert (vault.reads, tried) == (2, ["wrong"])


def test_a_second_denial_surfaces() -> None:
    """The worker's author has to see MySQL's own error, not a loop."""
    vault, tried = Vault("one", "two", "three"), list[str]()
    with pytest.raises(OperationalError, match="1045"):
        DatabaseCredentials(vault, is_denied).sign_in(ARN, server("right", tried))
    assert (vault.reads, tried) == (2, ["one", "two"])


def test_other_errors_read_nothing_again() -> None:
    """A database that is down would turn into a storm on Secrets Manager."""
    vault = Vault("old")

    def full(_: Login) -> str:
        raise OperationalError(1040, "Too many connections")

    with pytest.raises(OperationalError, match="1040"):
        DatabaseCredentials(vault, is_denied).sign_in(ARN, full)
    assert vault.reads == 1


def test_threads_that_meet_a_rotation_all_get_through() -> None:
    """Threads share the credentials: one that read late must not put the old password back."""
    vault = Vault("old", "new")
    credentials = DatabaseCredentials(vault, is_denied)
    assert credentials.get(ARN).password == "old"
    with ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(lambda _: credentials.sign_in(ARN, server("new", [])), range(64)))
    assert sessions == ["session"] * 64
    assert credentials.get(ARN).password == "new"


@pytest.mark.parametrize(
    ("secret", "field"),
    [
        ('{"password": "p"}', "username"),
        ('{"username": "u"}', "password"),
        ('{"username": "u", "password": ""}', "password"),
        ('{"username": "u", "password": 7}', "password"),
        ('"hunter2"', "secret"),
        ("hunter2", "secret"),
        ("", "secret"),
    ],
)
def test_a_secret_of_another_shape_is_named_and_never_shown(secret: str, field: str) -> None:
    """Otherwise the author sees a KeyError, or the log shows the password."""
    with pytest.raises(InvalidRequest) as refused:
        DatabaseCredentials(lambda *_, **__: secret, is_denied).get(ARN)
    assert refused.value.field == field
    assert ARN in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert not isinstance(refused.value.__context__, ValueError), "the parser's error carries the secret's text"


def test_a_password_is_not_shown() -> None:
    """Logs and tracebacks print values by their repr."""
    assert "hunter2" not in repr(Login("worker", "hunter2"))
