"""The local stack itself: the deployed functions answer, and the stack's own promises hold."""

import os
import time
from pathlib import Path

from harness.stack.local_stack import Stack


def test_a_deployed_worker_reads_the_seeded_table_through_the_governor(stack: Stack) -> None:
    """Otherwise the demo shows nothing: the template deploys, but its worker cannot reach the database."""
    answer = stack.invoke("WorkerFunctionName", {"hold_ms": 0, "timeout_ms": 2_000})
    assert answer["outcome"] == "granted"
    assert answer["rows"] == 3


def test_functions_see_nothing_of_this_shell(stack: Stack) -> None:
    """A function that relies on one of the developer's variables fails on AWS, where it is not set."""
    pid = stack.invoke("WorkerFunctionName", {"hold_ms": 0, "timeout_ms": 2_000})["pid"]
    variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    inherited = {variable.partition("=")[0] for variable in variables}
    assert "GOVERNOR_TABLE" in inherited
    strangers = {name for name in os.environ if name not in {"PATH", "HOME", "TMPDIR", "LANG"}}
    assert not {name for name in inherited & strangers if not name.startswith("AWS_")}


def test_a_budget_changed_by_deploying_again_is_in_force(stack: Stack) -> None:
    """An operator changes AllowedConnections and deploys: the governor must follow, and MySQL's own limit too."""
    stack.redeploy(AllowedConnections="4")
    try:
        assert _budget(stack) == 4
        assert _mysql_limit(stack) == 4
    finally:
        stack.redeploy()
    assert _budget(stack) == 10
    assert _mysql_limit(stack) == 10


def test_a_database_that_was_killed_serves_again_after_its_restart(stack: Stack) -> None:
    """MySQL goes down for a moment: workers get an error then, and their slots and the service come back."""
    stack.database.kill()
    try:
        answer = stack.invoke("WorkerFunctionName", {"hold_ms": 0, "on_refusal": "return"})
        assert answer["outcome"] == "error"
    finally:
        stack.database.start()
    assert stack.invoke("WorkerFunctionName", {"hold_ms": 0, "timeout_ms": 2_000})["outcome"] == "granted"
    assert _in_use(stack) == 0


def _status(stack: Stack) -> dict[str, int]:
    answer: dict[str, int] = stack.invoke("GovernorFunctionName", {"action": "status", "database": "Prod_MySQL"})
    return answer


def _budget(stack: Stack) -> int:
    return _status(stack)["allowed"]


def _in_use(stack: Stack) -> int:
    deadline = time.monotonic() + 5
    while (in_use := _status(stack)["in_use"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return in_use


def _mysql_limit(stack: Stack) -> int:
    with stack.database.root() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT max_user_connections FROM mysql.user WHERE user = 'governed_worker'")
        ((limit,),) = cursor.fetchall()
    return int(limit)
