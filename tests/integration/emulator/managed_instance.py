"""Lambda's side of a Managed Instances environment: the Runtime API for many processes, and the Extensions API.

The emulator of `conftest.py` takes one request at a time, so this stands in for it. The other side is real: the managed
runtime's own client, which forks a process for each concurrent request, and the layer's extension.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from harness.stack.processes import LOOPBACK

PROCESSES = 16
_RUNTIME = "/2018-06-01/runtime/invocation/"


class ManagedInstance(ThreadingHTTPServer):
    """A context manager: one environment's APIs.

    Attributes:
        address: what `AWS_LAMBDA_RUNTIME_API` says.
        polls: how many processes have asked for their first invocation, or for another.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Api)
        self.address = f"{LOOPBACK}:{self.server_port}"
        self.polls = 0
        self.events: queue.SimpleQueue[tuple[str, dict[str, Any], int]] = queue.SimpleQueue()
        self.extension_ready = threading.Event()
        self.shut_down = threading.Event()
        self._answers: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def invoke(self, act: str, *, timeout_ms: int = 3_000, **event: object) -> Future[Any]:
        """Send one event to whichever process is idle; its answer, which never comes from one that is killed."""
        request_id, answer = str(uuid.uuid4()), Future[Any]()
        self._answers[request_id] = answer
        self.events.put((request_id, {"act": act, **event}, timeout_ms))
        return answer

    def answered(self, request_id: str, body: bytes, *, failed: bool) -> None:
        """Note that a process has answered."""
        answer = self._answers[request_id]
        received = json.loads(body)
        if failed:
            answer.set_exception(AssertionError(received))
        else:
            answer.set_result(received)

    def poll(self) -> None:
        """Note that a process has asked for an invocation."""
        with self._lock:
            self.polls += 1

    def wait_for_processes(self, count: int = PROCESSES, *, timeout_s: float = 60.0) -> None:
        """Wait until so many processes have asked for their first invocation."""
        ends_at = time.monotonic() + timeout_s
        while self.polls < count:
            assert time.monotonic() < ends_at, f"{self.polls} of {count} processes are ready"
            time.sleep(0.05)


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ManagedInstance

    def do_GET(self) -> None:
        if self.path.endswith("/extension/event/next"):
            self.server.extension_ready.set()
            self.server.shut_down.wait()
            self._answer({"eventType": "SHUTDOWN", "shutdownReason": "spindown"})
            return
        self.server.extension_ready.wait()  # as Lambda: the extensions first
        self.server.poll()
        request_id, event, timeout_ms = self.server.events.get()
        deadline_ms = time.time_ns() // 1_000_000 + timeout_ms
        self._answer(
            event,
            {
                "Lambda-Runtime-Aws-Request-Id": request_id,
                "Lambda-Runtime-Deadline-Ms": str(deadline_ms),
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:checkout",
                "Content-Type": "application/json",
            },
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/extension/register"):
            self._answer({}, {"lambda-extension-identifier": str(uuid.uuid4())})
            return
        request_id, _, kind = self.path.removeprefix(_RUNTIME).partition("/")
        self.server.answered(request_id, body, failed=kind != "response")
        self._answer({}, status=202)

    def _answer(self, body: object, headers: dict[str, str] | None = None, *, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"content-length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a process was killed
            super().handle()

    def log_message(self, *_: object) -> None:
        """Nothing."""
