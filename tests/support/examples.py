"""Run an example as a user's function would: in a process of its own, by environment variables alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connection_governor.core.operations import Operations
from connection_governor.system import SYSTEM_CLOCK, SYSTEM_ENTROPY
from harness.paths import ROOT
from tests.support.scripted_server import ScriptedServer, answer
from tests.support.worlds import endpoint_of, environment_of, local_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection_governor.database.credentials import Login
    from connection_governor.database.target import Target

_INVOCATIONS = """
import json, runpy, sys, time
class Context:
    def get_remaining_time_in_millis(self):
        return int(1_000 * (ends_s - time.monotonic()))
handler = runpy.run_path(sys.argv[1])["handler"]
for article in sys.argv[2:]:
    ends_s = time.monotonic() + 20
    print(json.dumps(handler({"id": int(article)}, Context())), flush=True)
"""


@contextmanager
def worker_of(
    dynamodb_url: str, target: Target, login: Login, **more: str
) -> Iterator[tuple[Operations, dict[str, str]]]:
    """Yield a budget of two connections, and the variables of a worker that may have them."""
    endpoint = endpoint_of(dynamodb_url)
    store = local_store(endpoint)
    operations = Operations(store, SYSTEM_CLOCK, SYSTEM_ENTROPY)
    operations.set_budget("orders", 2)
    secret = answer({"SecretString": json.dumps({"username": login.username, "password": login.password})})
    with ScriptedServer([secret] * 4) as secrets:
        yield (
            operations,
            {
                **environment_of(dynamodb_url, store._table, GOVERNOR_DATABASE="orders").variables,
                "AWS_ENDPOINT_URL_SECRETS_MANAGER": secrets.url,
                "DB_HOST": target.host,
                "DB_PORT": str(target.port),
                "DB_NAME": str(target.database),
                "DB_SECRET_ARN": "arn:secret",
                "DB_TLS_CA": str(target.tls_ca),
                **more,
            },
        )
    endpoint.close()


def answers(variables: dict[str, str], example: str, *articles: int) -> list[dict[str, Any]]:
    """Return what an example's handler answers to one event after the other."""
    command = [sys.executable, "-c", _INVOCATIONS, str(ROOT / "examples" / example), *map(str, articles)]
    inherited = {**os.environ, **variables, "PYTHONPATH": str(ROOT / "layers" / "governor")}
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"statusCode"')]
