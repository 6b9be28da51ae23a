"""Where credentials come from, and when they are renewed."""

import builtins
from pathlib import Path

import pytest

from connection_governor.aws.container import ContainerCredentials
from connection_governor.aws.credentials import ChainCredentials, FixedCredentials, credential_source
from connection_governor.aws.http1 import Address
from connection_governor.aws.sigv4 import AwsCredentials
from connection_governor.errors import GovernorUnavailable, InvalidRequest


def test_given_values_are_used_as_they_are() -> None:
    """No worker in Lambda can sign."""
    found = credential_source({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"})
    assert isinstance(found, FixedCredentials)
    assert found.current() == AwsCredentials("a", "s", "t")
    assert credential_source({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}).current().token is None


def test_secrets_are_not_fetched_over_plain_http_from_elsewhere() -> None:
    """An attacker who sets a variable or listens on the way gets the function's keys."""
    with pytest.raises(InvalidRequest, match="AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        credential_source({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/credentials"})


def test_a_relative_address_means_the_agent_of_ecs() -> None:
    """Workers in ECS tasks have no credentials."""
    source = credential_source({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/7"})
    assert isinstance(source, ContainerCredentials)
    assert source._address == Address(False, "169.254.170.2", 80, "/v2/credentials/7")


def test_otherwise_botocores_chain_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators with a profile cannot use the command line."""
    profiles = tmp_path / "credentials"
    profiles.write_text("[ops]\naws_access_key_id = a\naws_secret_access_key = s\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    found = credential_source({"AWS_PROFILE": "ops"})
    assert isinstance(found, ChainCredentials)
    assert found.current() == AwsCredentials("a", "s", None)


@pytest.mark.parametrize(
    ("profiles", "retryable"),
    [
        ("", False),
        ("[ops]\nsource_profile = nobody\nrole_arn = arn", False),
        ("[ops]\nsso_session = nobody\n", True),  # nothing found: an instance's role may be there a moment later
    ],
    ids=["unknown-profile", "unknown-source", "nothing-found"],
)
def test_what_botocores_chain_cannot_do_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: str, *, retryable: bool
) -> None:
    """An operator whose sign-in has lapsed gets botocore's traceback at 3 a.m."""
    (tmp_path / "config").write_text(profiles.replace("[ops]", "[profile ops]"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(GovernorUnavailable, match="no credentials") as refused:
        credential_source({"AWS_PROFILE": "ops"}).current()
    assert refused.value.retryable is retryable


def test_without_botocore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is left with an ImportError of a library that the layer does not ship."""
    original = builtins.__import__

    def without_botocore(name: str, *rest: object) -> object:
        if name.startswith("botocore"):
            raise ImportError(name)
        return original(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_botocore)
    with pytest.raises(GovernorUnavailable, match=r"pip install 'connection-governor\[aws\]'"):
        credential_source({})
