"""Signatures, compared with AWS's published test suite and with botocore's signer."""

import datetime as dt
import string
from unittest import mock

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.aws import sigv4
from connection_governor.aws.client import Endpoint
from connection_governor.aws.credentials import FixedCredentials
from connection_governor.aws.sigv4 import AwsCredentials, CanonicalRequest, Signer, percent_encode
from tests.support.virtual import SetClock

# The test suite that AWS publishes, as in github.com/awslabs/aws-c-auth (tests/aws-signing-test-suite/v4):
# 2015-08-30 12:36:00 UTC, region us-east-1, a service named "service", host example.amazonaws.com.
NOW_MS = 1_440_938_160_000
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FORM = b"Param1=value1"
FORM_HEADERS = {
    "Content-Length": "13",
    "X-Amz-Content-Sha256": "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
}
STS_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwt"
    "hAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVX"
    "AkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
UNRESERVED = f"/-._~{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}"
VECTORS = {
    "get-vanilla": ("GET", "/", {}, b"", None, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": ("POST", "/", {}, b"", None, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-vanilla-query-order-key-case": (
        *("GET", "/?Param2=value2&Param1=value1", {}, b"", None),
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "post-vanilla-query": (
        *("POST", "/?Param1=value1", {}, b"", None),
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    "post-x-www-form-urlencoded": (
        *("POST", "/", {"Content-Type": "application/x-www-form-urlencoded", **FORM_HEADERS}, FORM, None),
        "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
    ),
    "post-x-www-form-urlencoded-parameters": (
        *(
            "POST",
            "/",
            {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", **FORM_HEADERS},
            FORM,
            None,
        ),
        "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
    ),
    "post-sts-header-before": (
        *("POST", "/", {}, b"", STS_TOKEN),
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
    "get-vanilla-with-session-token": (
        *("GET", "/", {}, b"", "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"),
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
    ),
    "get-header-value-trim": (
        *("GET", "/", {"My-Header1": " value1", "My-Header2": ' "a   b   c"'}, b"", None),
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "get-unreserved": (
        "GET",
        UNRESERVED,
        {},
        b"",
        None,
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-utf8": ("GET", "/ሴ", {}, b"", None, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
}


def authorization(
    signer: Signer,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    credentials: AwsCredentials,
    now_ms: int,
) -> str:
    """Return the Authorization header, made as the client makes it for each request."""
    canonical = CanonicalRequest(method, target, headers, credentials.token)
    return signer.authorize(canonical, body, credentials, now_ms)[1]


@pytest.mark.parametrize("name", VECTORS)
def test_signatures_equal_those_of_awss_published_test_suite(name: str) -> None:
    """AWS answers every request with InvalidSignatureException."""
    method, target, headers, body, token, signature = VECTORS[name]
    headers, credentials = {"Host": "example.amazonaws.com", **headers}, AwsCredentials(KEY, SECRET, token)
    signed = authorization(Signer("service", "us-east-1"), method, target, headers, body, credentials, NOW_MS)
    assert signed.endswith(f"Signature={signature}")
    assert f"Credential={KEY}/20150830/us-east-1/service/aws4_request, " in signed


def by_botocore(
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes,
    credentials: AwsCredentials,
    now_ms: int,
    place: list[str],
) -> str:
    """Return the Authorization header that botocore makes for the same request at the same time."""
    request = AWSRequest(method, f"https://{headers['host']}{target}", headers=headers, data=body)
    when = dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC)
    with mock.patch("botocore.auth.get_current_datetime", return_value=when):
        SigV4Auth(
            BotocoreCredentials(credentials.access_key, credentials.secret_key, credentials.token), *place
        ).add_auth(request)
    return str(request.headers["Authorization"])


VISIBLE = string.ascii_letters + string.digits + "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\" "
WORD = st.text(string.ascii_letters + string.digits + "-._~$:@ é/%", min_size=1, max_size=12)
# Encoded as they are sent; dot segments and empty segments are what the signer says it does not do.
SEGMENT = WORD.map(percent_encode).filter(lambda segment: segment not in (".", ".."))
PATH = st.lists(SEGMENT, max_size=4).map(lambda segments: "/" + "/".join(segments))
QUERY = st.lists(st.tuples(WORD.map(percent_encode), WORD.map(percent_encode)), max_size=4).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)
HEADERS = st.dictionaries(
    st.from_regex(r"x-amz-[a-z]{1,8}|[a-z]{2}-[a-z0-9]{1,8}", fullmatch=True).filter(
        lambda name: name not in {"x-amz-date", "x-amz-security-token"}
    ),
    st.text(VISIBLE, max_size=30),
    max_size=6,
)
CREDENTIALS = st.builds(
    AwsCredentials,
    st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=20),
    st.text(string.ascii_letters + string.digits + "/+", min_size=20, max_size=40),
    st.none() | st.text(string.ascii_letters + string.digits + "/+=", min_size=1, max_size=200),
)
PLACE = st.tuples(
    st.sampled_from(["dynamodb", "lambda", "secretsmanager"]), st.sampled_from(["eu-west-1", "cn-north-1"])
)
SIGNERS: dict[tuple[str, str], Signer] = {}  # kept across examples, as one is kept across requests


@given(
    method=st.sampled_from(["POST", "GET"]),
    path=PATH,
    query=QUERY,
    headers=HEADERS,
    body=st.binary(max_size=200),
    credentials=CREDENTIALS,
    now_ms=st.integers(0, 4_102_444_800_000),
    place=PLACE,
)
def test_any_request_is_signed_as_botocore_signs_it(
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    body: bytes,
    credentials: AwsCredentials,
    now_ms: int,
    place: tuple[str, str],
) -> None:
    """Some requests are refused by AWS, depending on the function's name, the day or the credentials."""
    target = f"{path}?{query}" if query else path
    headers = {"host": "some.host", **headers}
    signer = SIGNERS.setdefault(place, Signer(*place))
    signed = authorization(signer, method, target, headers, body, credentials, now_ms)
    assert signed == by_botocore(method, target, headers, body, credentials, now_ms, list(place))


def test_the_function_name_of_an_arn_is_signed_as_botocore_signs_it() -> None:
    """Workers that name the governor function by its ARN are refused."""
    arn = percent_encode("arn:aws:lambda:eu-west-1:123456789012:function:governor:live")
    target, headers = f"/2015-03-31/functions/{arn}/invocations", {"host": "lambda.eu-west-1.amazonaws.com"}
    place, credentials = ["lambda", "eu-west-1"], AwsCredentials(KEY, SECRET)
    signed = authorization(Signer(*place), "POST", target, headers, b"{}", credentials, NOW_MS)
    assert signed == by_botocore("POST", target, headers, b"{}", credentials, NOW_MS, place)


@given(credentials=CREDENTIALS, body=st.binary(max_size=200), prefix=st.sampled_from(["", "/stage"]))
def test_what_the_client_sends_is_signed_as_botocore_signs_it(
    credentials: AwsCredentials, body: bytes, prefix: str
) -> None:
    """A header that the client sends and does not sign, or signs otherwise, is refused by AWS."""
    source = FixedCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    url = f"https://some.host{prefix}"
    endpoint = Endpoint("dynamodb", "eu-west-1", source, url=url, clock=SetClock(NOW_MS))
    sent = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "DynamoDB_20120810.GetItem"}
    head, _, _ = endpoint._signed(f"{prefix}/", sent, body).partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
    headers = {"host": "some.host", **sent}
    place = ["dynamodb", "eu-west-1"]
    assert lines["authorization"] == by_botocore("POST", f"{prefix}/", headers, body, credentials, NOW_MS, place)
    assert lines.get("x-amz-security-token") == credentials.token


def test_the_days_signing_key_is_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request costs four HMACs more; or a new day or a rotated secret is signed with the old key."""
    hashed = []
    original = sigv4._hmac

    def counted(key: bytes, message: str) -> bytes:
        hashed.append(message)
        return original(key, message)

    monkeypatch.setattr(sigv4, "_hmac", counted)
    signer = Signer("dynamodb", "eu-west-1")

    def hmacs(secret: str, now_ms: int) -> int:
        hashed.clear()
        authorization(signer, "POST", "/", {"host": "h"}, b"", AwsCredentials(KEY, secret), now_ms)
        return len(hashed)

    assert hmacs("one", NOW_MS) == 5
    assert hmacs("one", NOW_MS + 1000) == 1
    assert hmacs("two", NOW_MS) == 5
    assert hmacs("two", NOW_MS + 86_400_000) == 5


def test_printing_credentials_shows_no_secret() -> None:
    """The secret key lands in a log."""
    shown = f"{AwsCredentials('AKID', 'hush', 'token')!r} {AwsCredentials('AKID', 'hush', 'token')}"
    assert "AKID" in shown
    assert "hush" not in shown
    assert "token" not in shown
