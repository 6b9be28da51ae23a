"""The wire client against a real server on loopback that misbehaves as scripted."""

import hashlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connection_governor.aws import client, tls
from connection_governor.aws.client import Endpoint, ServiceError, invoke, json_call
from connection_governor.aws.credentials import FixedCredentials
from connection_governor.aws.http1 import Answer, Connection
from connection_governor.core.deadline import Deadline
from connection_governor.errors import GovernorUnavailable, InvalidRequest
from connection_governor.system import SYSTEM_CLOCK
from harness.stack.tls import ServerCertificate
from tests.support.scripted_server import Dribble, Echo, HangUp, Interject, Say, ScriptedServer, Silence, Step, answer
from tests.support.virtual import SetClock

NOW_MS = 1_800_000_000_000
SHORT_S = 0.05
LAYER = Path(client.__file__).parents[1]
HALF = Say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")


@pytest.fixture
def clock() -> SetClock:
    return SetClock(NOW_MS)


class Endpoints:
    """Makes endpoints, and closes them at the test's end."""

    def __init__(self, clock: SetClock) -> None:
        self._clock = clock
        self._made: list[Endpoint] = []

    def __call__(self, server: ScriptedServer | str, **more: object) -> Endpoint:
        url = server if isinstance(server, str) else server.url
        source = FixedCredentials("AKID", "secret", "token")
        endpoint = Endpoint("dynamodb", "eu-west-1", source, url=url, clock=self._clock, **more)  # type: ignore[arg-type]
        self._made.append(endpoint)
        return endpoint

    def close(self) -> None:
        for endpoint in self._made:
            endpoint.close()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Return the connection of each exchange that is tried, whether the server ever sees it or not."""
    tried: list[Connection] = []
    original = Connection.exchange

    def noted(self: Connection, request: bytes, deadline: Deadline) -> Answer:
        tried.append(self)
        return original(self, request, deadline)

    monkeypatch.setattr(Connection, "exchange", noted)
    return tried


@pytest.fixture
def endpoint_to(clock: SetClock) -> Iterator[Endpoints]:
    made = Endpoints(clock)
    yield made
    made.close()


def call(endpoint: Endpoint, left_s: float | None = None) -> dict[str, object]:
    """Send any request of DynamoDB that must end within this time."""
    deadline = None if left_s is None else Deadline.after(round(left_s * 1_000), SYSTEM_CLOCK)
    return json_call(endpoint, "DynamoDB_20120810.GetItem", {"TableName": "t"}, deadline=deadline)


def test_a_call_is_signed_and_its_answer_parsed(endpoint_to: Endpoints) -> None:
    """Nothing works."""
    with ScriptedServer([answer({"Item": {"pk": {"S": "é"}}})]) as server:
        assert call(endpoint_to(server)) == {"Item": {"pk": {"S": "é"}}}
    request = server.requests[0]
    assert (request.line, request.body) == ("POST / HTTP/1.1", b'{"TableName":"t"}')
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["content-type"] == "application/x-amz-json-1.0"
    assert request.headers["x-amz-target"] == "DynamoDB_20120810.GetItem"
    assert request.headers["x-amz-security-token"] == "token"
    assert request.headers["x-amz-date"] == "20270115T080000Z"
    assert (
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
        in request.headers["authorization"]
    )


def test_each_request_carries_the_token_of_its_own_credentials(endpoint_to: Endpoints) -> None:
    """After the first renewal of temporary credentials every request would be refused."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        endpoint._credentials = FixedCredentials("AKID", "secret", "renewed")
        call(endpoint)
    assert [request.headers["x-amz-security-token"] for request in server.requests] == ["token", "renewed"]


def test_calls_share_one_kept_connection(endpoint_to: Endpoints) -> None:
    """Each request pays for a TLS handshake."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        for _ in range(3):
            call(endpoint)
    assert [request.connection for request in server.requests] == [0, 0, 0]


def test_threads_get_their_own_answers_and_few_connections_are_kept(endpoint_to: Endpoints) -> None:
    """One thread is granted another's lease; or a burst of threads leaves sockets open forever."""
    wrong = []
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server, read_timeout_s=10.0)
        start = threading.Barrier(8)

        def ask(thread: int) -> None:
            start.wait()
            for number in range(25):
                asked = {"thread": thread, "number": number}
                if json_call(endpoint, "t", asked) != asked:
                    wrong.append(asked)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(server.requests) == 200
        assert 1 <= len(endpoint._idle) <= 4


def test_a_connection_closed_while_idle_is_noticed_before_anything_is_sent(
    endpoint_to: Endpoints, exchanges: list[Connection]
) -> None:
    """The first request after a thaw fails, or is sent twice."""
    with ScriptedServer([answer(), HangUp()], [answer()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        assert server.hung_up.wait(5)
        call(endpoint)
    assert [request.connection for request in server.requests] == [0, 1]
    assert len(exchanges) == 2


def test_what_the_server_says_unasked_is_not_taken_for_an_answer(endpoint_to: Endpoints) -> None:
    """A load balancer's parting 408, sent while we were frozen, is taken for the answer to the next request."""
    parting = answer(b"{}", "408 Request Timeout", {"Connection": "close"}).answer
    with ScriptedServer([answer(), Interject(parting), HangUp()], [answer({"second": 1})]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        server.interject.set()
        assert server.hung_up.wait(5)
        assert call(endpoint) == {"second": 1}


@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
def test_a_connection_closed_while_we_write_is_replaced_and_the_request_repeated(
    rudely: bool, endpoint_to: Endpoints
) -> None:
    """A server's idle time-out that coincides with a request shows up as an outage."""
    with ScriptedServer([answer(), HangUp(after_request=True, rudely=rudely)], [answer({"second": 1})]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        assert call(endpoint) == {"second": 1}
    assert [request.connection for request in server.requests] == [0, 0, 1]
    assert server.requests[1].body == server.requests[2].body


def test_a_refused_condition_after_a_repeated_request_says_that_the_first_may_have_been_applied(
    endpoint_to: Endpoints,
) -> None:
    """A release that was applied looks like a rival's, and a second lease is given back."""
    failed = {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "Item": {}}
    with ScriptedServer(
        [answer(failed, "400 Bad Request"), answer(), HangUp(after_request=True)], [answer(failed, "400 Bad Request")]
    ) as server:
        endpoint = endpoint_to(server)
        perhaps_applied = []
        for _ in range(3):
            try:
                call(endpoint)
            except ServiceError as refused:
                perhaps_applied.append(refused.perhaps_applied)
    assert perhaps_applied == [False, True]


@pytest.mark.parametrize(
    ("off_ms", "least", "most"),
    [(0, 0, 0), (-30_000, -30_000, -29_000), (30_000, 28_900, 30_000), (-900, -900, 0), (900, 0, 0)],
)
def test_each_answer_shows_how_far_this_clock_is_certainly_off(
    off_ms: int, least: int, most: int, endpoint_to: Endpoints, clock: SetClock
) -> None:
    """A worker's wrong clock would write leases that others take over while it works."""
    date = answer(headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    with ScriptedServer([date, answer()]) as server:
        endpoint = endpoint_to(server)
        clock.now = NOW_MS + off_ms
        call(endpoint)
        assert least <= endpoint.clock_error_ms <= most
        found = endpoint.clock_error_ms
        call(endpoint)
        assert endpoint.clock_error_ms == found, "an answer without a date says nothing"


@pytest.mark.parametrize("sent_before", [False, True])
def test_throttling_promises_that_nothing_was_applied_only_of_the_first_sending(
    sent_before: bool, endpoint_to: Endpoints
) -> None:
    """The engine would go on to another shard, although the first sending was applied: two leases for one acquire."""
    refusal = answer({"__type": "ThrottlingException"}, "400 Bad Request")
    second: Step = HangUp(after_request=True) if sent_before else refusal
    with ScriptedServer([answer(), second], [refusal]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        with pytest.raises(GovernorUnavailable, match="throttling") as caught:
            call(endpoint)
    assert caught.value.retryable
    assert caught.value.throttled == (not sent_before)


def test_a_request_is_repeated_only_once(endpoint_to: Endpoints) -> None:
    """A server that drops every connection is hammered."""
    with ScriptedServer([answer(), HangUp(after_request=True)], [HangUp(after_request=True)]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        with pytest.raises(GovernorUnavailable, match="cannot be reached") as caught:
            call(endpoint)
    assert isinstance(caught.value.__cause__, OSError)
    assert not caught.value.throttled
    assert len(server.requests) == 3


def test_a_fresh_connection_that_is_dropped_is_an_outage_at_once(endpoint_to: Endpoints) -> None:
    """Retries are hidden from the engine, which alone knows how often and how long to try."""
    with ScriptedServer([HangUp(after_request=True)]) as server, pytest.raises(GovernorUnavailable):
        call(endpoint_to(server))
    assert len(server.requests) == 1


def test_half_an_answer_is_an_outage_and_not_repeated(endpoint_to: Endpoints) -> None:
    """Half an answer is taken for a whole one, or the engine does not learn that the outcome is unknown."""
    with ScriptedServer([answer(), HALF, HangUp()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        with pytest.raises(GovernorUnavailable, match="middle of an answer"):
            call(endpoint)
    assert len(server.requests) == 2


def test_a_silent_server_costs_no_more_than_the_time_given(endpoint_to: Endpoints) -> None:
    """The wait passes the function's deadline, and Lambda kills the worker in the middle."""
    with ScriptedServer([Silence()], [answer({"second": 1})]) as server:
        endpoint = endpoint_to(server)
        started = time.monotonic()
        with pytest.raises(GovernorUnavailable, match="before the deadline") as caught:
            call(endpoint, left_s=SHORT_S)
        assert time.monotonic() - started < 1
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert call(endpoint) == {"second": 1}, "a connection that may still bring the old answer is not used again"


def test_an_answer_that_trickles_in_is_bounded_as_a_whole(endpoint_to: Endpoints) -> None:
    """A byte now and then keeps the worker waiting forever, although each single read is quick."""
    with ScriptedServer([Dribble()]) as server:
        started = time.monotonic()
        with pytest.raises(GovernorUnavailable, match="in time"):
            call(endpoint_to(server, read_timeout_s=SHORT_S))
    assert time.monotonic() - started < 1


def test_no_time_left_means_nothing_is_sent(endpoint_to: Endpoints) -> None:
    """A lease is acquired that no worker is left to use."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        with pytest.raises(GovernorUnavailable, match="before the deadline"):
            call(endpoint, left_s=0)
        assert len(server.requests) == 1


def test_a_port_without_a_listener_is_an_outage(endpoint_to: Endpoints) -> None:
    """The worker sees a bare OSError instead of a GovernorError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(GovernorUnavailable, match="dynamodb in eu-west-1 cannot be reached"):
        call(endpoint_to(f"http://127.0.0.1:{free}"))


@pytest.mark.parametrize("dead", ["refuses", "ignores"])
def test_a_dead_address_of_the_name_is_passed_over(
    dead: str, endpoint_to: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of the endpoint's addresses is out of order, so is the governor."""
    with ScriptedServer([Echo()]) as server, socket.socket() as first, socket.socket() as filler:
        first.bind(("127.0.0.1", 0))
        if dead == "ignores":
            first.listen(0)
            filler.connect(first.getsockname())  # its queue is full now, and Linux drops every other client
        inet = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
        found = [(*inet, first.getsockname()), (*inet, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        call(endpoint_to("http://dynamodb.example", connect_timeout_s=0.4))
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<htm>", answer(b"[1]").answer],
    ids=["no-http", "no-json", "no-object"],
)
def test_garbage_is_an_outage(garbage: bytes, endpoint_to: Endpoints) -> None:
    """A captive portal's answer is taken for a grant, or ends the worker with a ValueError."""
    with ScriptedServer([Say(garbage)]) as server, pytest.raises(GovernorUnavailable):
        call(endpoint_to(server))


def test_a_connection_that_the_server_ends_is_not_used_again(endpoint_to: Endpoints) -> None:
    """Every other request fails behind a server that does not keep connections."""
    with ScriptedServer([answer(headers={"Connection": "close"})]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        assert endpoint._idle == []
        call(endpoint)
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_connection_that_rested_longer_than_gateways_remember_is_not_trusted(
    endpoint_to: Endpoints, clock: SetClock
) -> None:
    """After a freeze of minutes the first request waits for its whole time-out behind a forgetful gateway."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        clock.now += 300_000
        call(endpoint)
        clock.now += 300_001
        call(endpoint)
        clock.now -= 3_600_000  # set back: how long it rested is not known
        call(endpoint)
    assert [request.connection for request in server.requests] == [0, 0, 1, 2]


def test_a_forked_child_leaves_its_parents_connection_alone(
    endpoint_to: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With multiprocessing, parent and child read each other's answers."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        monkeypatch.setattr("os.getpid", lambda: -1)
        call(endpoint)
    assert [request.connection for request in server.requests] == [0, 1]


def test_a_call_that_is_interrupted_leaves_no_connection_behind(
    endpoint_to: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a Ctrl-C or a signal handler's exception the next call is given the interrupted one's answer."""
    with ScriptedServer([Echo()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("connection_governor.aws.http1._Reader.answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(endpoint)
        assert endpoint._idle == []


@pytest.mark.parametrize(
    ("status", "body", "headers", "code"),
    [
        (
            "400 Bad Request",
            {"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"},
            {},
            "Conditio",
        ),
        ("400 Bad Request", {"__type": "AccessDeniedException", "Message": "no"}, {}, "AccessDeniedException"),
        (
            "404 Not Found",
            {"Message": "n"},
            {"x-amzn-ErrorType": "ResourceNotFoundException:http://x/"},
            "ResourceNotFo",
        ),
        ("302 Found", b"<html>", {"Location": "http://127.0.0.1:9/"}, ""),
    ],
    ids=["dynamodb", "message-in-capitals", "lambda", "redirect"],
)
def test_a_refusal_is_named_by_its_code(
    status: str, body: dict[str, object] | bytes, headers: dict[str, str], code: str, endpoint_to: Endpoints
) -> None:
    """A failed condition is taken for an outage, a missing permission for a full database."""
    with ScriptedServer([answer(body, status, headers)]) as server, pytest.raises(ServiceError) as caught:
        call(endpoint_to(server))
    assert caught.value.code.startswith(code)
    assert bool(caught.value.code) == bool(code)
    assert caught.value.code.endswith("Exception") == bool(code)
    assert caught.value.status == int(status[:3])
    assert caught.value.body == (body if isinstance(body, dict) else {})
    assert len(server.requests) == 1


def test_a_refusal_quotes_only_the_first_line_of_its_message(endpoint_to: Endpoints) -> None:
    """The session token, which AWS repeats when it refuses a signature, lands in a log."""
    body = {"__type": "InvalidSignatureException", "message": "does not match\nx-amz-security-token:hush"}
    with ScriptedServer([answer(body, "400 Bad Request")]) as server, pytest.raises(ServiceError) as caught:
        call(endpoint_to(server))
    assert str(caught.value) == "InvalidSignatureException (400): does not match"


@pytest.mark.parametrize(
    ("status", "body", "throttled"),
    [
        ("400 Bad Request", {"__type": "a#ProvisionedThroughputExceededException"}, True),
        ("400 Bad Request", {"__type": "a#ThrottlingException"}, True),
        ("400 Bad Request", {"__type": "a#RequestLimitExceeded"}, True),
        ("429 Too Many Requests", {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"}, True),
        ("503 Slow Down", {"__type": "SlowDown"}, True),
        ("500 Internal Server Error", {"__type": "InternalServerError"}, False),
        ("503 Service Unavailable", b"<html>", False),
    ],
)
def test_throttling_and_faults_are_distinguished(
    status: str, body: dict[str, object] | bytes, throttled: bool, endpoint_to: Endpoints
) -> None:
    """The engine backs off without need, or hammers a table that is throttling."""
    with ScriptedServer([answer(body, status)]) as server, pytest.raises(GovernorUnavailable) as caught:
        call(endpoint_to(server))
    assert caught.value.throttled is throttled


SKEWED = {"__type": "com.amazon.coral.service#InvalidSignatureException", "message": "Signature expired"}
TEN_MINUTES_ON = "Fri, 15 Jan 2027 08:10:00 GMT"


def test_a_wrong_clock_is_corrected_from_the_servers_for_signing_only(endpoint_to: Endpoints, clock: SetClock) -> None:
    """An environment thawed with a wrong clock can do nothing; or its leases get wrong ends."""
    refused = answer(SKEWED, "400 Bad Request", {"Date": TEN_MINUTES_ON})
    with ScriptedServer([refused, answer(), answer()]) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        call(endpoint)
    dates = [request.headers["x-amz-date"] for request in server.requests]
    assert dates == ["20270115T080000Z", "20270115T081000Z", "20270115T081000Z"]
    assert clock.now == NOW_MS


@pytest.mark.parametrize(
    ("headers", "requests"),
    [({"Date": "Fri, 15 Jan 2027 08:00:30 GMT"}, 1), ({}, 1), ({"Date": "today"}, 1), ({"Date": TEN_MINUTES_ON}, 2)],
    ids=["clocks-agree", "no-date", "bad-date", "still-refused"],
)
def test_a_wrong_key_is_not_taken_for_a_wrong_clock(
    headers: dict[str, str], requests: int, endpoint_to: Endpoints
) -> None:
    """Each request with wrong credentials is sent twice, or forever."""
    with ScriptedServer([answer(SKEWED, "403 Forbidden", headers)] * 3) as server:  # noqa: SIM117  # counted while open
        with pytest.raises(ServiceError, match="InvalidSignatureException"):
            call(endpoint_to(server))
    assert len(server.requests) == requests


def test_a_function_is_invoked_and_its_errors_are_named(endpoint_to: Endpoints) -> None:
    """The `lambda` transport cannot reach the governor, or takes its crash for an answer."""
    failed = answer(b'{"errorMessage":"x"}', headers={"X-Amz-Function-Error": "Unhandled"})
    with ScriptedServer([answer(b'{"granted":true}'), failed]) as server:
        endpoint = endpoint_to(server)
        assert invoke(endpoint, "governor", b"{}") == (b'{"granted":true}', None)
        arn = "arn:aws:lambda:eu-west-1:123456789012:function:governor:live"
        assert invoke(endpoint, arn, b"{}") == (b'{"errorMessage":"x"}', "Unhandled")
    first, second = server.requests
    assert first.line == "POST /2015-03-31/functions/governor/invocations HTTP/1.1"
    assert first.headers["x-amz-invocation-type"] == "RequestResponse"
    assert second.line.split()[1] == f"/2015-03-31/functions/{arn.replace(':', '%3A')}/invocations"


def test_a_prefix_of_the_endpoints_url_is_kept(endpoint_to: Endpoints) -> None:
    """Emulators behind a path cannot be used."""
    with ScriptedServer([answer()]) as server:
        call(endpoint_to(f"{server.url}/aws/"))
    assert server.requests[0].line == "POST /aws/ HTTP/1.1"


def test_a_header_that_would_break_out_of_its_line_is_refused(endpoint_to: Endpoints) -> None:
    """A value from outside adds headers to a signed request."""
    with ScriptedServer([answer()]) as server, pytest.raises(InvalidRequest, match="line break"):
        json_call(endpoint_to(server), "t\r\nx-amz-evil: 1", {})
    assert server.requests == []


def test_tls_connections_are_kept_too(
    certificate: ServerCertificate, server_tls: ssl.SSLContext, endpoint_to: Endpoints
) -> None:
    """Session tickets, which TLS 1.3 sends after the handshake, make each connection look stale."""
    with ScriptedServer([Echo()], tls=server_tls) as server:
        endpoint = endpoint_to(server, ca_file=str(certificate.authority))
        for _ in range(3):
            call(endpoint)
    assert [request.connection for request in server.requests] == [0, 0, 0]


def test_a_tls_connection_closed_while_idle_is_noticed(
    certificate: ServerCertificate,
    server_tls: ssl.SSLContext,
    endpoint_to: Endpoints,
    exchanges: list[Connection],
) -> None:
    """Against AWS itself, the first request after a thaw fails."""
    with ScriptedServer([answer(), HangUp()], [answer()], tls=server_tls) as server:
        endpoint = endpoint_to(server, ca_file=str(certificate.authority))
        call(endpoint)
        assert server.hung_up.wait(5)
        call(endpoint)
    assert [request.connection for request in server.requests] == [0, 1]
    assert len(exchanges) == 2


def test_an_untrusted_authority_is_refused(server_tls: ssl.SSLContext, endpoint_to: Endpoints) -> None:
    """Anyone on the way can read the requests and grant what they like."""
    with (
        ScriptedServer([Echo()], tls=server_tls) as server,
        pytest.raises(GovernorUnavailable, match="CERTIFICATE_VERIFY"),
    ):
        call(endpoint_to(server))
    assert server.requests == []


def test_a_certificate_of_another_host_is_refused(
    certificate: ServerCertificate,
    server_tls: ssl.SSLContext,
    endpoint_to: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any holder of a valid certificate can pose as AWS."""
    original = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **more: original("127.0.0.1", port, **more))
    with ScriptedServer([Echo()], tls=server_tls) as server, pytest.raises(GovernorUnavailable, match="mismatch"):
        call(endpoint_to(f"https://dynamodb.example:{server.port}", ca_file=str(certificate.authority)))
    assert server.requests == []


def test_an_endpoint_that_amazon_did_not_sign_is_judged_by_the_systems_store(
    certificate: ServerCertificate,
    server_tls: ssl.SSLContext,
    endpoint_to: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AWS in China, private endpoints and companies' own authorities cannot be reached."""
    monkeypatch.setattr(tls, "_contexts", {})
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    with ScriptedServer([HangUp()], [Echo()], tls=server_tls) as server:
        endpoint = endpoint_to(server)
        call(endpoint)
        call(endpoint)
    assert [request.connection for request in server.requests] == [1, 1]


def test_the_bundled_authorities_are_amazons_five() -> None:
    """A certificate added by mistake or malice is trusted for every request.

    Fingerprints as published at https://www.amazontrust.com/repository/.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.AMAZON_ROOTS)
    assert {hashlib.sha256(der).hexdigest() for der in context.get_ca_certs(binary_form=True)} == {
        "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e",
        "1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4",
        "18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4",
        "e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092",
        "568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5",
    }


def test_importing_the_client_loads_nothing_heavy() -> None:
    """The cold start of each worker, which loads the client before anything else."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import connection_governor.aws.client;"
        "import connection_governor.aws.credentials;"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-I", "-c", program, str(LAYER)], capture_output=True, check=True, timeout=60
    )
    loaded = set(json.loads(shown.stdout))
    heavy = {"boto3", "botocore", "ssl", "http.client", "email", "urllib.request", "urllib.parse", "asyncio"}
    assert loaded & heavy == set()


def test_a_failed_tls_handshake_leaves_no_socket_open(
    server_tls: ssl.SSLContext, endpoint_to: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage ends in 'too many open files'."""
    opened = []
    original = Connection.__init__

    def remembering(self: Connection, *rest: object) -> None:
        opened.append(self)
        original(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "__init__", remembering)
    with ScriptedServer([Echo()], tls=server_tls) as server, pytest.raises(GovernorUnavailable):
        call(endpoint_to(server))
    assert [connection._socket.fileno() for connection in opened] == [-1, -1]


@pytest.mark.dynamodb_local
def test_conditional_writes_and_their_refusals_arrive_as_dynamodb_says_them(dynamodb_local: str) -> None:
    """The store cannot tell a full shard from a retry of its own, for which it needs the refused item."""
    credentials = FixedCredentials("AKID", "secret")
    endpoint = Endpoint("dynamodb", "eu-west-1", credentials, url=dynamodb_local, read_timeout_s=10.0)

    def dynamodb(operation: str, **payload: object) -> dict[str, object]:
        return json_call(endpoint, f"DynamoDB_20120810.{operation}", {"TableName": "wire", **payload})

    dynamodb(
        "CreateTable",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    take = {
        "Key": {"pk": {"S": "orders#0"}},
        "UpdateExpression": "SET remaining = :left",
        "ConditionExpression": "attribute_not_exists(remaining)",
        "ExpressionAttributeValues": {":left": {"N": "35"}},
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    stored = {"pk": {"S": "orders#0"}, "remaining": {"N": "35"}}
    assert dynamodb("UpdateItem", **take)["Attributes"] == stored
    with pytest.raises(ServiceError) as caught:
        dynamodb("UpdateItem", **take)
    assert caught.value.code == "ConditionalCheckFailedException"
    assert caught.value.body["Item"] == stored
    with pytest.raises(ServiceError) as caught:
        dynamodb("GetItem", Key={})
    assert caught.value.code == "ValidationException"
    dynamodb("DeleteTable")
    endpoint.close()
