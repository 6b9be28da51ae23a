"""Reading and writing HTTP/1.1, however the network cuts the bytes."""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.aws import http1
from connection_governor.aws.http1 import Address, GarbledAnswerError, request_bytes
from connection_governor.core.deadline import Deadline
from connection_governor.errors import InvalidRequest
from connection_governor.system import SYSTEM_CLOCK

if TYPE_CHECKING:
    import socket


class Pieces:
    """A socket whose bytes arrive in these pieces, and then end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, most: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        self._pieces[:0] = [piece[most:]] if piece[most:] else []
        return piece[:most]


def read(*pieces: bytes) -> tuple[http1.Answer, bool]:
    """Return the answer in these pieces, and whether its connection can be used again."""
    return http1._Reader(cast("socket.socket", Pieces(pieces)), Deadline.after(60_000, SYSTEM_CLOCK)).answer()


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    """Return `whole`, cut at these places."""
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


def chunked(body: bytes, size: int) -> bytes:
    """Return the body in chunks, one of them with an extension, a trailer at the end."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%X;x=y\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: yes\r\n\r\n"


PLACES = st.lists(st.integers(0, 10_000), max_size=8)


@given(body=st.binary(max_size=400), places=PLACES, interim=st.booleans())
def test_an_answer_of_known_length_is_read_whole_wherever_it_is_cut(
    body: bytes, places: list[int], interim: bool
) -> None:
    """Now and then an answer is truncated, and a grant is taken for an outage."""
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\nX-Amzn-RequestId:  Q \r\n\r\n" % len(body)
    whole = (b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b"") + head + body
    answer, reusable = read(*cut(whole, places))
    assert answer == http1.Answer(400, {"content-length": str(len(body)), "x-amzn-requestid": "Q"}, body)
    assert reusable


@given(body=st.binary(max_size=400), size=st.integers(1, 50), places=PLACES)
def test_a_chunked_answer_is_read_whole_wherever_it_is_cut(body: bytes, size: int, places: list[int]) -> None:
    """Services and emulators that answer in chunks cannot be used."""
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, size)
    answer, reusable = read(*cut(whole, places))
    assert answer.body == body
    assert reusable


@given(body=st.binary(max_size=400), places=PLACES)
def test_an_answer_without_length_lasts_until_the_end_and_ends_the_connection(body: bytes, places: list[int]) -> None:
    """An old emulator's answers are lost."""
    answer, reusable = read(*cut(b"HTTP/1.0 200 OK\r\n\r\n" + body, places))
    assert answer.body == body
    assert not reusable


@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer_or_the_one_error(garbage: bytes) -> None:
    """A captive portal's page ends the worker with an unexpected exception."""
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        try:
            read(start + garbage)
        except GarbledAnswerError:
            continue


@pytest.mark.parametrize(
    ("whole", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n", "9000000 bytes is not accepted"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n895441\r\n", "9000001 bytes is not accepted"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not accepted"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "not a number"),
        (b"HTTP/1.1 OK\r\n\r\n", "not HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "header is too long"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9_000_000, "is not accepted"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "chunk"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf", "middle of an answer"),
    ],
    ids=[
        "long",
        "long-chunk",
        "negative",
        "no-number",
        "no-status",
        "not-http",
        "long-head",
        "endless",
        "chunk",
        "half",
    ],
)
def test_an_answer_that_is_too_large_or_no_http_is_refused(whole: bytes, reason: str) -> None:
    """A wrong or hostile endpoint fills the function's memory."""
    with pytest.raises(GarbledAnswerError, match=reason):
        read(whole)


def test_a_long_answer_is_read_whole() -> None:
    """The status of a database with many shards cannot be read."""
    body = bytes(range(256)) * 16_384
    for framing in (
        b"Content-Length: %d\r\n\r\n" % len(body) + body,
        b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 60_000),
    ):
        answer, _ = read(b"HTTP/1.1 200 OK\r\n" + framing)
        assert answer.body == body


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nunasked", False),
    ],
    ids=["kept", "no-content", "close", "http-1.0", "bytes-left-over"],
)
def test_a_connection_is_kept_only_where_the_server_keeps_it(answer: bytes, reusable: bool) -> None:
    """The next request fails, or reads the rest of another answer."""
    assert read(answer)[1] is reusable


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("https://dynamodb.eu-west-1.amazonaws.com", (True, "dynamodb.eu-west-1.amazonaws.com", 443, ""), None),
        ("http://localhost:4566/", (False, "localhost", 4566, "/"), "localhost:4566"),
        ("http://127.0.0.1/a/b/", (False, "127.0.0.1", 80, "/a/b/"), "127.0.0.1"),
        ("https://[::1]:8443/x", (True, "::1", 8443, "/x"), "[::1]:8443"),
        ("http://[fd00:ec2::23]", (False, "fd00:ec2::23", 80, ""), "[fd00:ec2::23]"),
    ],
)
def test_an_endpoints_url_is_split(url: str, address: tuple[bool, str, int, str], authority: str | None) -> None:
    """An emulator on its own port, or a proxying prefix, cannot be reached."""
    assert Address.of(url) == Address(*address)
    assert Address.of(url).authority == (authority or address[1])


@pytest.mark.parametrize(
    "url", ["", "localhost:4566", "ftp://host", "http://", "http://host:port", "http://u:p@host", "http://h/a b"]
)
def test_an_unusable_url_is_named(url: str) -> None:
    """A typing error in AWS_ENDPOINT_URL shows up as an outage."""
    with pytest.raises(InvalidRequest, match="url"):
        Address.of(url)


@given(st.text("ab\r\n: ", max_size=8))
def test_no_header_value_can_add_a_line(value: str) -> None:
    """A holder's name or a token file could smuggle headers into a signed request."""
    try:
        sent = request_bytes("POST", "/", {"host": "h", "x": value})
    except InvalidRequest:
        assert set(value) & set("\r\n")
    else:
        assert not set(value) & set("\r\n")
        assert sent == b"POST / HTTP/1.1\r\nhost: h\r\nx: " + value.encode() + b"\r\n\r\n"
