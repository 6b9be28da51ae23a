"""`harness/on_aws.sh`'s middle part: loads a deployed stack, drills crashes, and writes the same `summary.json`.

The stack may be in anybody's account. What the demo reads from its own database server, this asks the janitor function.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from harness.demo.background import in_background
from harness.demo.capacity import leaked, wait_for_full_budget
from harness.demo.load import Wave, load_of, run, together
from harness.demo.observer import now_ms, operations_of
from harness.demo.recording import Recording
from harness.demo.summary import longest_lease_ms, not_kept, summarise
from harness.errors import StackError
from harness.paths import BUILD, ROOT
from harness.run_options import RunOptions
from harness.stack.deployment import DATABASE_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.demo.recording import Load, Samples

FOLDER = BUILD / "on-aws"
CRASH_RATE = 0.2  # of the second wave
PATIENCE_S = 10.0
EACH_S = 1.0


@dataclass(frozen=True, slots=True)
class Account:
    """A stack that sam deployed, reached with the caller's own credentials."""

    session: boto3.Session
    outputs: dict[str, str]

    @classmethod
    def of(cls, stack_name: str) -> Account:
        """Read the stack's outputs."""
        session = boto3.Session()
        (stack,) = session.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"]
        return cls(session, {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())})

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which `governor` reaches it."""
        return {**os.environ, "GOVERNOR_TABLE": self.outputs["TableName"], "AWS_REGION": self.session.region_name}

    def invoke(self, output: str, payload: object, *, timeout_s: float = 60.0) -> Any:  # noqa: ANN401 - any JSON
        """Invoke the function that a stack output names; return its answer.

        Raises:
            StackError: the function failed.
        """
        config = Config(retries={"total_max_attempts": 1}, read_timeout=timeout_s)
        client = self.session.client("lambda", config=config)
        answer = client.invoke(FunctionName=self.outputs[output], Payload=json.dumps(payload).encode())
        body = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise StackError(f"{output} failed: {body}")
        return body


@dataclass(slots=True)
class Trial:
    """The load, the crash drill, and what was seen meanwhile."""

    account: Account
    options: RunOptions
    in_use: Samples = field(default_factory=list)
    mysql: Samples = field(default_factory=list)

    def recorded(self) -> Recording:
        """Play it; return the recording."""
        settings = operations_of(self.account).status(DATABASE_NAME).settings
        waves = [self._wave(self.options.seed, 0.0), self._wave(self.options.seed + 1, CRASH_RATE)]
        crashed = [hold.to_ms for hold in waves[1].holds if hold.crashed]
        governed = together(*waves)
        longest_ms = longest_lease_ms(governed.holds) + settings.skew_ms
        full_at_ms = wait_for_full_budget(
            self.account, timeout_s=longest_ms / 1000 + PATIENCE_S, meanwhile=lambda: None
        )
        print("The same load without the governor ...", flush=True)
        ungoverned = run(self.account, self._input(self.options.seed, governed=False))
        return Recording(
            allowed=settings.allowed,
            concurrency=self.options.concurrency,
            asked=2 * self.options.iterations,
            skew_ms=settings.skew_ms,
            governed=governed,
            ungoverned=ungoverned,
            crashed_at_ms=max(crashed, default=None),
            killed=len(crashed),
            full_again_at_ms=full_at_ms,
            leaked=leaked(self.account),
            mysql_sessions=self.mysql,
            mysql_refused=0,  # nobody here can ask MySQL for its own count; the workers' errors are counted
            lent=self.in_use,
            remaining=[],
            refusals=[],
            metric_totals={},
        )

    def _input(self, seed: int, *, governed: bool = True) -> Wave:
        return Wave(self.options.iterations, self.options.concurrency, "ramp", seed, governed)

    def _wave(self, seed: int, crash_rate: float) -> Load:
        print(f"{self.options.iterations} invocations, of which {crash_rate:.0%} crash ...", flush=True)
        event, from_ms = {**self._input(seed).event(), "crash_rate": crash_rate}, now_ms()
        load = in_background(lambda: self.account.invoke("HarnessFunctionName", event, timeout_s=900))
        while not load.done():
            self._look()
            time.sleep(EACH_S)
        return load_of(load.result(), from_ms, now_ms())

    def _look(self) -> None:
        seen = self.account.invoke("JanitorFunctionName", {"action": "sessions", "by": "on_aws.sh"})
        if "error" not in seen:
            self.mysql.append((now_ms(), len(seen["sessions"])))
        status = self.account.invoke("GovernorFunctionName", {"action": "status", "database": DATABASE_NAME})
        self.in_use.append((now_ms(), status["in_use"]))


def main(of: Callable[[str], Account] = Account.of) -> int:
    """Run the trial on the stack that `STACK` names; return 0 only if every promise held."""
    recording = Trial(of(os.environ["STACK"]), RunOptions.from_environment()).recorded()
    summary = summarise(recording)
    FOLDER.mkdir(parents=True, exist_ok=True)
    recording.write(FOLDER / "recording.json")
    (FOLDER / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    broken = not_kept(summary, recording)
    for promise in broken:
        print(f"BROKEN: {promise}")
    print(f"Results: {(FOLDER / 'summary.json').relative_to(ROOT)}", flush=True)
    return 1 if broken else 0
