"""A proxy on loopback between the production client and DynamoDB Local: sees every request, and what each one cost."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


FORWARDED = ("content-type", "x-amz-target", "x-amz-date", "authorization")


class Seen(NamedTuple):
    """One request as it went over the wire."""

    operation: str
    asked: dict[str, Any]
    status: int
    answer: dict[str, Any]

    @property
    def units(self) -> float:
        """Capacity units that it consumed; a refused condition's are not told."""
        consumed = self.answer["ConsumedCapacity"]
        total: float = (consumed[0] if isinstance(consumed, list) else consumed)["CapacityUnits"]
        return total


class WireTap:
    """Where the client connects to, and what it has sent since the last `clear`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Seen] = []

    def operations(self) -> list[str]:
        """Return the names of the operations, in order."""
        return [request.operation for request in self.seen]

    def clear(self) -> None:
        """Forget what was seen."""
        self.seen.clear()


@contextmanager
def tapped(endpoint_url: str) -> Iterator[WireTap]:
    """Run a tap in front of DynamoDB Local; asks for the consumed capacity in the client's name."""
    behind = urlsplit(endpoint_url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            operation = self.headers["x-amz-target"].partition(".")[2]
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            counted = {**asked, "ReturnConsumedCapacity": "TOTAL"} if operation != "CreateTable" else asked
            upstream = http.client.HTTPConnection(str(behind.hostname), behind.port, timeout=20)
            kept = {
                name: self.headers[name] for name in ("content-type", "x-amz-target", "x-amz-date", "authorization")
            }
            upstream.request("POST", "/", json.dumps(counted), kept)
            response = upstream.getresponse()
            body = response.read()
            upstream.close()
            tap.seen.append(Seen(operation, asked, response.status, json.loads(body)))
            self.send_response(response.status)
            self.send_header("content-type", "application/x-amz-json-1.0")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tap = WireTap(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield tap
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
