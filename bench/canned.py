"""AWS's services with answers made beforehand, to measure the client alone: every acquire is granted at once."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = ("worker", "benchmark-only")
SECRET = {"DB_SECRET_ARN": "arn"}  # answered with that login
_LEASE_FIELDS = ("database", "holder", "lease_id", "connections", "expires_at_ms")
_TOTALS = {"allowed": 36, "in_use": 3, "remaining": 33, "estimated": False, "pressure": False}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps(_answer(self.headers.get("x-amz-target", ""), asked)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: object) -> None:
        """Write nothing: each request would be a line."""


def _answer(target: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of DynamoDB or Secrets Manager to this target; without one, that of the governor function."""
    if target.endswith("GetItem"):
        return {"Item": {"pk": {"S": "orders"}, **_numbers(allowed=36, shards=1, plan=1)}}
    if target.endswith("UpdateItem"):
        return {"Attributes": _numbers(allowed=36, remaining=30, fence=5)}
    if target.endswith("GetSecretValue"):
        return {"SecretString": json.dumps(dict(zip(("username", "password"), LOGIN, strict=True)))}
    if asked["action"] == "acquire":
        lease = {name: asked[name] for name in _LEASE_FIELDS} | {"fence": 3, "shard": 0}
        return {"granted": True, "lease": lease, **_TOTALS}
    if asked["action"] == "renew":
        return {"renewed": True, "lease": asked["lease"] | {"expires_at_ms": asked["expires_at_ms"]}, "pressure": False}
    return {"released": True}


def _numbers(**fields: int) -> dict[str, Any]:
    return {name: {"N": str(number)} for name, number in fields.items()}


@contextmanager
def canned_aws() -> Iterator[str]:
    """Yield the URL of a server on loopback that answers until the end of the body."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
