"""`DB_TLS=off` and the plugin that MySQL makes accounts with: a clear error of the driver's. On a real MySQL.

Without TLS, caching_sha2_password takes the password only encrypted by the server's RSA key, for which PyMySQL needs
the package `cryptography`. It asks for it only while its cache does not know the user: after a restart, FLUSH
PRIVILEGES, or the seed's ALTER USER. So it fails after a failover first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pymysql import err
from pymysql.constants import CR

from connection_governor.core.memory import MemoryStore
from connection_governor.core.operations import Operations
from connection_governor.database.credentials import Login
from connection_governor.database.target import Target
from connection_governor.mysql.connect import open_session
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from tests.support.database import ask, governor_on, lease_ids
from tests.support.faulty_store import FaultyStore

if TYPE_CHECKING:
    from connection_governor.client.governor import Governor
    from harness.stack.mysql import PrivateMySQL

PLAIN = Login("plain", "pw")


@pytest.fixture
def target(mysql: PrivateMySQL, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Return a server that does not know the user's password yet, for a client as a worker's layer has it."""
    mysql.create_user(PLAIN.username, PLAIN.password, require_ssl=False)
    mysql.execute("FLUSH PRIVILEGES")
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    return Target(mysql.host, mysql.port or 0, tls="off")


@pytest.fixture
def store() -> FaultyStore:
    """Return leases with a budget of one connection."""
    store = FaultyStore(MemoryStore())
    Operations(store.inner, SYSTEM_CLOCK, SYSTEM_ENTROPY).set_budget("orders", 1)
    return store


@pytest.fixture
def governor(store: FaultyStore, target: Target) -> Governor:
    """Return a governor of that server."""
    return governor_on(store, target, credentials=PLAIN, keep_seconds=0)


def test_it_is_an_error_of_the_driver_that_names_the_way_out(target: Target) -> None:
    """RuntimeError is no MySQL error: the janitor does not catch it, and reclaims nothing until somebody looks."""
    with pytest.raises(err.OperationalError, match=r"caching_sha2_password.*DB_TLS") as refused:
        open_session(target, PLAIN)
    assert refused.value.args[0] == CR.CR_AUTH_PLUGIN_ERR


def test_no_lease_is_left_behind(governor: Governor, store: FaultyStore) -> None:
    """The server waits for a password that does not come: there is no session that could linger."""
    with pytest.raises(err.OperationalError), governor.connection():
        pass
    assert lease_ids(store) == set()


def test_the_asynchronous_driver_says_the_same(governor: Governor, store: FaultyStore) -> None:
    """As above, for asyncio."""
    from connection_governor.client.aio import AsyncGovernor  # noqa: PLC0415 - as a worker loads it

    async def work() -> None:
        async with AsyncGovernor(governor).connection():
            pass

    with pytest.raises(err.OperationalError, match=r"caching_sha2_password.*DB_TLS"):
        asyncio.run(work())
    assert lease_ids(store) == set()


def test_a_server_that_knows_the_user_lets_it_in(mysql: PrivateMySQL, target: Target) -> None:
    """Nothing of ours: it is why the error comes late. The documents say so."""
    by_tls = Target(mysql.host, mysql.port or 0, tls_ca=str(mysql.ca_path))
    open_session(by_tls, PLAIN).close()
    session = open_session(target, PLAIN)
    assert ask(session, "SELECT 1") == 1
    session.close()
