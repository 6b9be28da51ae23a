"""Credentials from a container's agent, over real sockets: when they are fetched and renewed, also in an outage."""

import datetime as dt
import ssl
from pathlib import Path

import pytest

from connection_governor.aws import tls
from connection_governor.aws.container import ContainerCredentials
from connection_governor.aws.credentials import credential_source
from connection_governor.aws.sigv4 import AwsCredentials
from connection_governor.errors import GovernorUnavailable
from harness.stack.tls import ServerCertificate
from tests.support.scripted_server import HangUp, Say, ScriptedServer, answer
from tests.support.virtual import SetClock, VirtualClock

NOW_MS = 1_800_000_000_000


MINUTE_MS = 60_000


def granted(name: str, minutes: int) -> Say:
    """Return the agent's answer: credentials that end so many minutes after `NOW_MS`."""
    ends = dt.datetime.fromtimestamp(NOW_MS / 1000 + minutes * 60, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return answer({"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": ends})


def agent(server: ScriptedServer, **more: str) -> dict[str, str]:
    """Return the environment of a container whose agent is this server."""
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/v1/credentials?id=7", **more}


def test_container_credentials_are_asked_for_once_and_renewed_five_minutes_before_their_end() -> None:
    """A function with SnapStart signs with credentials that have ended, or asks the agent at each request."""
    clock = SetClock(NOW_MS)
    with ScriptedServer([granted("first", 60)], [granted("second", 120)]) as server:
        source = credential_source(agent(server, AWS_CONTAINER_AUTHORIZATION_TOKEN="Basic abc"), clock)
        assert [source.current().access_key for _ in range(3)] == ["first"] * 3
        clock.now = NOW_MS + 55 * MINUTE_MS - 1
        assert source.current() == AwsCredentials("first", "s", "t")
        clock.now = NOW_MS + 55 * MINUTE_MS
        assert source.current().access_key == "second"
    assert [request.line for request in server.requests] == ["GET /v1/credentials?id=7 HTTP/1.1"] * 2
    assert server.requests[0].headers["authorization"] == "Basic abc"


def test_a_clock_set_back_postpones_no_renewal() -> None:
    """Credentials would be used hours after their end, and every request be refused."""
    clock = VirtualClock(NOW_MS)
    with ScriptedServer([granted("first", 60)], [granted("second", 120)]) as server:
        source = ContainerCredentials(agent(server), clock)
        source.current()
        clock.set_back(180 * MINUTE_MS)
        clock.advance(55 * MINUTE_MS)
        assert source.current().access_key == "second"


def test_the_token_file_is_read_again_at_each_renewal(tmp_path: Path) -> None:
    """On EKS the second renewal is refused, hours after the start."""
    clock, token = SetClock(NOW_MS), tmp_path / "token"
    token.write_text("old\n")
    with ScriptedServer([granted("first", 60)], [granted("second", 120)]) as server:
        source = ContainerCredentials(agent(server, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(token)), clock)
        source.current()
        token.write_text("new\n")
        clock.now = NOW_MS + 56 * MINUTE_MS
        source.current()
    assert [request.headers["authorization"] for request in server.requests] == ["old", "new"]


def test_a_failing_agent_is_survived_as_long_as_the_credentials_last() -> None:
    """A hiccup of the agent fails requests that could have been signed, or slows each of them down."""
    clock = SetClock(NOW_MS)
    failing = answer(b"no", "500 Oops")
    with ScriptedServer([granted("first", 60)], [failing], [HangUp(after_request=True)]) as server:
        source = ContainerCredentials(agent(server), clock)
        source.current()
        clock.now = NOW_MS + 56 * MINUTE_MS
        assert [source.current().access_key for _ in range(3)] == ["first"] * 3
        assert len(server.requests) == 2, "asked again only ten seconds later"
        clock.now = NOW_MS + 60 * MINUTE_MS
        with pytest.raises(GovernorUnavailable, match="agent"):
            source.current()


@pytest.mark.parametrize(
    "script",
    [
        answer(b"<html>"),
        answer(b"[]"),
        answer({}),
        answer({"AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": "x"}),
    ],
    ids=["no-json", "no-object", "nothing-in-it", "no-date"],
)
def test_an_agent_that_answers_nonsense_is_an_outage(script: Say) -> None:
    """The worker ends with a KeyError instead of an error that it can handle."""
    with ScriptedServer([script]) as server, pytest.raises(GovernorUnavailable, match="agent"):
        ContainerCredentials(agent(server), SetClock(NOW_MS)).current()


def test_an_agent_behind_tls_is_asked_over_tls(
    certificate: ServerCertificate, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authorization token goes out in the clear to a host that the URL said to reach by https."""
    monkeypatch.setattr(tls, "_contexts", {})
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    with ScriptedServer([granted("first", 60)], tls=server_tls) as server:
        assert ContainerCredentials(agent(server), SetClock(NOW_MS)).current().access_key == "first"
