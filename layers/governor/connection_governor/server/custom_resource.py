"""Answer CloudFormation's request for a custom resource: always, once, in time, and without showing a secret."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NEVER_MADE: Final = "never-made"
"""Physical id of what could not be created: CloudFormation then asks for its deletion, and nothing is there."""

_TRIES: Final = 4
_MOST_CHARACTERS: Final = 1000  # CloudFormation takes 4,096 bytes for the whole answer


class ResourceAnswer:
    """The one answer to one request, sent to its presigned URL. The URL is a secret: it is never shown.

    Args:
        event: CloudFormation's request.
        put: sends the body to the URL; may raise.
    """

    def __init__(self, event: Mapping[str, Any], put: Callable[[str, bytes], None] | None = None) -> None:
        self._event = event
        self._put = put or put_with_retries
        self._lock = threading.Lock()
        self._given = False

    def succeed(self, physical_id: str, **values: str) -> None:
        """Report success; the template can read `values` with `Fn::GetAtt`."""
        self._give("SUCCESS", "", physical_id, values)

    def fail(self, reason: str) -> None:
        """Report failure and its reason; CloudFormation then rolls back."""
        made = self._event.get("PhysicalResourceId")
        self._give("FAILED", reason[:_MOST_CHARACTERS], made or NEVER_MADE, {})

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Report failure if the body takes longer: a function that times out would leave the stack waiting."""
        timer = threading.Timer(max(seconds, 0), self.fail, ["ran out of time"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give(self, status: str, reason: str, physical_id: str, values: Mapping[str, str]) -> None:
        with self._lock:  # the timer and the work may end together: the first one answers
            if self._given:
                return
            self._given = True
            echoed = {key: self._event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
            outcome = {"Status": status, "Reason": reason, "PhysicalResourceId": physical_id, "Data": dict(values)}
            self._put(self._event["ResponseURL"], json.dumps({**outcome, **echoed}).encode())


def put_with_retries(url: str, body: bytes) -> None:
    """Put the body to the URL, and again after a failure: a lost answer leaves the stack waiting."""
    request = urllib.request.Request(url, body, {"Content-Type": ""}, method="PUT")  # noqa: S310  # CloudFormation's own URL
    for attempt in range(1, _TRIES + 1):
        try:
            urllib.request.urlopen(request, timeout=3).close()  # noqa: S310  # the same
        except OSError:
            if attempt == _TRIES:
                raise
            time.sleep(0.2 * attempt)
        else:
            return


def whereabouts(error: Exception) -> list[str]:
    """Return the files and lines that an error came through, the innermost last, and no value: it may be a secret."""
    return [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in walk_tb(error.__traceback__)]
