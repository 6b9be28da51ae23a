"""Acquire + release by the `direct` transport, beside two plain boto3 updates and beside the same two unsigned.

Unsigned twice. Over the standard library's kept connection: the floor for a client without HTTP code of its own. As
ready-made bytes over a bare socket: the time of the network and DynamoDB Local alone.
"""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from bench.measure import FULL, Series, interleaved, ratio
from bench.results import Row
from bench.tables import TOKEN, governed_table, update_pair
from connection_governor.aws.http1 import request_bytes
from connection_governor.client.governor import Governor
from connection_governor.wiring import governor_parts
from harness.stack.dynamodb_local import dynamodb_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.measure import Effort
    from connection_governor.wiring import Environment

NAME = "direct"
MOST_CPU = 0.25
MOST_WALL = 1.25
_UNSIGNED = {
    "Content-Type": "application/x-amz-json-1.0",
    "X-Amz-Target": "DynamoDB_20120810.UpdateItem",
    "X-Amz-Date": "20260101T000000Z",
    "Authorization": "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/dynamodb/aws4_request, "
    "SignedHeaders=host, Signature=none",
}


def rows(effort: Effort = FULL) -> Iterator[Row]:
    """Measure on a shard with no other lease and on one that holds 35 (1 KB)."""
    with dynamodb_local() as url:
        for held in (0, 35):
            yield from _compared(held, measured(url, held, effort))


def measured(url: str, held: int, effort: Effort) -> dict[str, Series]:
    """Return the times of our client, boto3 and the floor."""
    worker = governed_table(url, held=held)
    with ExitStack() as until_end:
        log = until_end.enter_context(Path("/dev/null").open("w", encoding="utf-8"))
        until_end.enter_context(redirect_stdout(log))  # our metric lines are written in the measured time
        ways = {"ours": governor_cycle(worker), "boto3": boto3_pair(url, update_pair(worker))}
        unsigned = until_end.enter_context(closing(http.client.HTTPConnection(url.removeprefix("http://"))))
        ways["unsigned"] = unsigned_pair(unsigned, update_pair(worker))
        bare = until_end.enter_context(closing(BareConnection(url)))
        ways["bytes"] = bare.pair(update_pair(worker))
        return interleaved(ways, effort)


def governor_cycle(worker: Environment) -> Callable[[], object]:
    """Return what a worker calls, with checks and metric lines."""
    governor = Governor(**governor_parts(worker))

    def cycle() -> None:
        governor.release(governor.acquire())

    return cycle


def boto3_pair(url: str, bodies: Sequence[dict[str, Any]]) -> Callable[[], object]:
    """Return the same two requests by boto3, and nothing else."""
    client = boto3.Session("AKID", "SECRET", TOKEN, region_name="us-east-1").client("dynamodb", endpoint_url=url)

    def pair() -> None:
        for body in bodies:
            client.update_item(**body)

    return pair


def unsigned_pair(connection: http.client.HTTPConnection, bodies: Sequence[dict[str, Any]]) -> Callable[[], object]:
    """Return the same two requests over the standard library: built, sent, parsed, and nothing more."""

    def pair() -> None:
        for body in bodies:
            connection.request("POST", "/", json.dumps(body), _UNSIGNED)
            answer = connection.getresponse()
            json.loads(answer.read())
            assert answer.status == http.client.OK

    return pair


class BareConnection:
    """Ready-made bytes over one kept connection, unsigned, the answer parsed and nothing checked."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._host = f"{host}:{port}"
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def pair(self, bodies: Sequence[dict[str, Any]]) -> Callable[[], object]:
        """Send these bodies, one after the other."""
        requests = [self._request(json.dumps(body, separators=(",", ":")).encode()) for body in bodies]

        def send() -> None:
            for request in requests:
                self._socket.sendall(request)
                head, _, rest = self._socket.recv(65_536).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                json.loads(rest)

        return send

    def _request(self, body: bytes) -> bytes:
        headers = {"Host": self._host, **_UNSIGNED, "Content-Length": str(len(body))}
        return request_bytes("POST", "/", headers, body)


def _compared(held: int, taken: dict[str, Series]) -> Iterator[Row]:
    details = {name: series.report() for name, series in taken.items()}
    where = f"{held} other leases in the shard"
    cpu = ratio(taken["ours"].cpu_ms, taken["boto3"].cpu_ms)
    yield Row(
        NAME,
        f"acquire + release, client CPU / two boto3 updates, {where}",
        f"at most {MOST_CPU}",
        str(cpu),
        cpu.median <= MOST_CPU,
        details,
    )
    wall = ratio(taken["ours"].wall_ms, taken["unsigned"].wall_ms)
    yield Row(
        NAME,
        f"acquire + release, wall / the same two requests unsigned (standard library), {where}",
        f"at most {MOST_WALL}",
        str(wall),
        wall.median <= MOST_WALL,
    )
    for other, named in (("bytes", "ready-made bytes over a bare socket"), ("boto3", "two boto3 updates")):
        beside = ratio(taken["ours"].wall_ms, taken[other].wall_ms)
        yield Row(NAME, f"acquire + release, wall / {named}, {where}", "", str(beside))
    beside = ratio(taken["unsigned"].wall_ms, taken["boto3"].wall_ms)
    yield Row(NAME, f"two unsigned requests (standard library), wall / two boto3 updates, {where}", "", str(beside))
